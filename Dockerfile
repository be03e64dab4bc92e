# The images of `make images`, for who builds with Docker:
#
#   make image-root
#   docker build --file Dockerfile --target bistro --tag bistro:0.1.0 ~/.cache/bistro/images/root
#
# Targets: bistro, bistro-worker, bistro-devnet. Each copies the folder that hack/image filled: a program and its libraries.

FROM scratch AS bistro
COPY bistro /
USER 65532:65532
ENTRYPOINT ["/usr/bin/bistro"]

FROM scratch AS bistro-worker
COPY bistro-worker /
USER 65532:65532
ENTRYPOINT ["/usr/bin/bistro-worker"]

FROM scratch AS bistro-devnet
COPY bistro-devnet /
USER 65532:65532
ENTRYPOINT ["/usr/bin/bistro-devnet"]
