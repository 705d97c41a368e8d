//! The models: every interleaving of two or three threads, and every value that the memory model
//! lets them see, checked by loom. `ci/loom.sh` runs them.
//!
//! Each model takes the [`Faults`] to build with. Without one it has to pass; with each of the faults
//! named beside it, it has to fail, with the message given there, which shows that it looks at what it
//! claims to.
//!
//! *Bounds*: the models of up to three threads are exhaustive, the main thread included; that of four is
//! bounded to three preemptions.
//!
//! What loom cannot show: it runs read-modify-writes of one atomic in the order of the execution, so no model
//! fails when the Release of [`Gate::orphan`](crate::gate::Gate::orphan) or the Acquire paired with it is
//! weakened. That pair is justified in words only, where it stands.

mod gate;
mod retire;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake, Waker};

use crate::fault::{Fault, Faults};

/// Bound on preemptions in the model that is not exhaustive.
const PREEMPTIONS_MAX: usize = 3;

/// Checks every execution.
fn exhaustive(model: impl Fn() + Send + Sync + 'static) {
    loom::model::Builder::new().check(model);
}

/// Checks every execution with at most [`PREEMPTIONS_MAX`] preemptions.
fn bounded(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS_MAX);
    builder.check(model);
}

/// Waits for `threads`, and fails if one of them did.
fn join<const N: usize>(threads: [loom::thread::JoinHandle<()>; N]) {
    threads.into_iter().for_each(|thread| thread.join().expect("no thread of a model panics"));
}

/// A waker that notes that it was woken. It is looked at only after its threads were joined.
#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// One task that waits.
struct Sleeper {
    flag: Arc<Flag>,
    waker: Waker,
}

impl Sleeper {
    fn new() -> Self {
        let flag = Arc::new(Flag::default());
        let waker = Waker::from(Arc::clone(&flag));
        Sleeper { flag, waker }
    }

    /// What is meant by "no lost wake-up": whoever was told to wait has been woken by now.
    fn assert_not_lost(&self, polled: Poll<()>) {
        assert!(polled.is_ready() || self.flag.0.load(Ordering::SeqCst), "a wake-up was lost");
    }
}

/// Tests that `model` passes, and that it fails with each of these faults.
macro_rules! model {
    ($name:ident, $check:ident, $model:path $(, $mutant:ident: $fault:ident => $message:literal)*) => {
        #[test]
        fn $name() {
            $check(|| $model(Faults::default()));
        }
        $(
            #[test]
            #[should_panic(expected = $message)]
            fn $mutant() {
                $check(|| $model(Faults::only(Fault::$fault)));
            }
        )*
    };
}
use model;
