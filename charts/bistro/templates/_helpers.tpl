{{/* Name of the application: a label, and part of names. */}}
{{- define "bistro.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Name of the operator's objects. 50 characters leave room for endings. */}}
{{- define "bistro.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "bistro.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "bistro.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Labels that select the operator's pods; they can never change. Worker pods have other components. */}}
{{- define "bistro.selectorLabels" -}}
app.kubernetes.io/name: {{ include "bistro.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{/* Labels that select the devnet's pod. */}}
{{- define "bistro.devnetSelectorLabels" -}}
app.kubernetes.io/name: {{ include "bistro.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: devnet
{{- end -}}

{{/* What every object has besides its selector's labels. */}}
{{- define "bistro.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of the operator's objects. */}}
{{- define "bistro.labels" -}}
{{ include "bistro.selectorLabels" . }}
{{ include "bistro.commonLabels" . }}
{{- end -}}

{{/* Labels of the devnet's objects. */}}
{{- define "bistro.devnetLabels" -}}
{{ include "bistro.devnetSelectorLabels" . }}
{{ include "bistro.commonLabels" . }}
{{- end -}}

{{/* A full image name of (dict "root" . "image" .Values.image.operator): the digest wins over the tag. */}}
{{- define "bistro.image" -}}
{{- $name := .image.repository -}}
{{- with .root.Values.image.registry -}}
{{- $name = printf "%s/%s" (trimSuffix "/" .) $name -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end -}}

{{/* Name of the operator's service account. */}}
{{- define "bistro.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "bistro.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* The namespace of (dict "root" . "namespace" .Values.dashboards.namespace). */}}
{{- define "bistro.namespace" -}}
{{- .namespace | default .root.Release.Namespace -}}
{{- end -}}
