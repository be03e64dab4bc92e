//! Which device: what the setting says, and what answers.

use std::{fmt, str::FromStr};

use candle_core::{Device, Tensor, cuda};

use crate::engine::Error;

/// BISTRO_DEVICE: where the engine should compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first GPU where one answers, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU with this number, among those that the process sees.
    Cuda(usize),
}

impl FromStr for Choice {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "is no device: write auto, cpu, cuda or cuda:N";
        match text.split_once(':') {
            None if text == "auto" => Ok(Self::Auto),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            // A driver counts in 32 bits.
            Some(("cuda", number)) => number.parse::<u16>().map(|n| Self::Cuda(n.into())).map_err(|_| wrong),
            _ => Err(wrong),
        }
    }
}

/// BISTRO_PRECISION: of the factors of products while training on a GPU. Sums, parameters and moments are f32 always, and so
/// is everything that is scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// As they are.
    #[default]
    F32,
    /// Rounded to bf16.
    Bf16,
}

impl FromStr for Precision {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => Err("is no precision: write f32 or bf16"),
        }
    }
}

/// A device that answered.
#[derive(Clone, Debug)]
pub struct Place {
    device: Device,
    name: String,
    precision: Precision,
}

impl Place {
    /// Looks for the device. `None` is the CPU, with the engine's own kernels. [`Error::Device`] says why a GPU that was asked
    /// for by name does not compute, or that nothing but a GPU trains in bf16.
    pub fn find(choice: Choice, precision: Precision) -> Result<Option<Self>, Error> {
        let found = match choice {
            Choice::Cpu => None,
            Choice::Cuda(number) => Some(Self::cuda(number, precision)?),
            Choice::Auto if !cfg!(feature = "cuda") => None,
            // A GPU that is there and fails is a fault; who would look for it where a node is only slow?
            Choice::Auto => match driver::devices() {
                Ok(_) => Some(Self::cuda(0, precision)?),
                Err(reason) => {
                    tracing::warn!("no GPU ({reason}): computes on the CPU");
                    None
                }
            },
        };
        if found.is_none() && precision != Precision::F32 {
            let reason = "trains in f32 only: leave BISTRO_PRECISION out".into();
            return Err(Error::Device { device: "the CPU".into(), reason });
        }
        Ok(found)
    }

    fn cuda(number: usize, precision: Precision) -> Result<Self, Error> {
        let device = format!("cuda:{number}");
        if !cfg!(feature = "cuda") {
            let reason =
                "this program was built without CUDA: take the CUDA image (make build-cuda), or BISTRO_DEVICE=cpu";
            return Err(Error::Device { device, reason: reason.into() });
        }
        // Products of f32 are not rounded on their way; off is candle's default, and scores depend on it.
        cuda::set_gemm_reduced_precision_f32(false);
        cuda::set_gemm_reduced_precision_bf16(false);
        let silent = |e: candle_core::Error| Error::Device {
            device: device.clone(),
            reason: format!(
                "does not answer ({}): check the machine's driver and the pod's GPU, or set BISTRO_DEVICE=cpu",
                line(&e)
            ),
        };
        // One stream for all threads: candle's other way is one for each, and a node computes on whichever is free.
        let found = Device::new_cuda_with_stream(number).map_err(silent)?;
        let place = Self { name: format!("{device}{}", driver::model(&found)), device: found, precision };
        place.try_out().map_err(|e| Error::Device {
            device: place.name.clone(),
            reason: format!("does not compute ({}): the GPU is older than this program was built for, or its driver older than CUDA 13", line(&e)),
        })?;
        Ok(place)
    }

    /// Any device of candle's, for tests.
    #[cfg(test)]
    pub fn test(device: Device, precision: Precision) -> Self {
        Self { device, name: "the test's device".into(), precision }
    }

    /// One kernel and one product.
    fn try_out(&self) -> candle_core::Result<()> {
        let one = Tensor::new(&[[1f32]], &self.device)?;
        (one.matmul(&one)? + &one)?.to_vec2::<f32>().map(drop)
    }

    /// For candle.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Of products in training.
    pub fn precision(&self) -> Precision {
        self.precision
    }

    /// The line for what went wrong here.
    pub fn fault(&self, error: &candle_core::Error) -> Error {
        let reason = format!("{}: if its memory is full, take a larger one, or BISTRO_DEVICE=cpu", line(error));
        Error::Device { device: self.name.clone(), reason }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// What candle says, without its trace.
fn line(error: &candle_core::Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// What candle does not pass on.
#[cfg(feature = "cuda")]
mod driver {
    use candle_core::{Device, cuda::cudarc::driver::CudaContext};

    /// How many GPUs there are, at least one, or why there is none.
    pub fn devices() -> Result<usize, String> {
        match CudaContext::device_count() {
            Ok(count) if count > 0 => Ok(count as usize),
            Ok(_) => Err("the driver shows none".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// What the driver calls it.
    pub fn model(device: &Device) -> String {
        let name = device.as_cuda_device().ok().and_then(|cuda| cuda.cuda_stream().context().name().ok());
        name.map(|name| format!(" ({name})")).unwrap_or_default()
    }
}

#[cfg(not(feature = "cuda"))]
mod driver {
    use candle_core::Device;

    pub fn devices() -> Result<usize, String> {
        Err("built without CUDA".into())
    }

    pub fn model(_: &Device) -> String {
        String::new()
    }
}
