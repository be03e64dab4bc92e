//! The thread that makes a block at every tick of a steady clock.

use super::{Chain, Error};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// The runtime's generated code is deep.
const STACK_BYTES: usize = 16 << 20;

/// The exit status of a process whose chain cannot go on.
const EXIT_BROKEN: i32 = 70;

/// A running producer. Dropping it stops the clock and waits for the block being made.
pub struct Producer {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Producer {
    /// Starts making blocks, the first one after `block_time`.
    pub fn start(chain: Arc<Chain>, block_time: Duration) -> Result<Producer, Error> {
        let (stop, stopped) = channel::<()>();
        let run = move || {
            let mut next = Instant::now() + block_time;
            loop {
                match stopped.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Err(RecvTimeoutError::Timeout) => {}
                    Ok(()) | Err(RecvTimeoutError::Disconnected) => return,
                }
                produce_or_exit(&chain);
                next += block_time;
                let now = Instant::now();
                if next < now {
                    // After a pause (a suspended machine) the clock goes on from here: no burst of blocks.
                    next = now;
                }
            }
        };
        let thread = std::thread::Builder::new()
            .name("chain".into())
            .stack_size(STACK_BYTES)
            .spawn(run)
            .map_err(Error::Thread)?;
        Ok(Producer { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It catches its own panics.
            let _ = thread.join();
        }
    }
}

/// A chain that stands still while its servers answer would hide the fault from every client: end the process.
fn produce_or_exit(chain: &Chain) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_millis());
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    let fault = match catch_unwind(AssertUnwindSafe(|| chain.produce(now))) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => crate::error_chain(&error),
        Err(_) => "the runtime panicked (see above)".to_string(),
    };
    eprintln!("bistro-devnet: failed to make block {}: {fault}", chain.best() + 1);
    std::process::exit(EXIT_BROKEN);
}
