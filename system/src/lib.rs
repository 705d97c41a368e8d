//! What touches the operating system and knows nothing of dataspaces.
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | [`poll`] | one epoll set that many threads may wait on, the eventfd that wakes them, and a timer |
//! | [`net`] | non-blocking TCP and Unix listeners and streams, and who is at the other end |
//! | [`limits`] | the process's resource limits |
//! | [`process`] | whose the process is and what it uses: memory, processor time, threads, descriptors |
//! | [`notify`] | what a service tells its manager (`sd_notify`) |
//! | [`users`] | numbers of users and groups by their names |
//! | [`wait`] | waiting for a few descriptors of any kind |
//!
//! Nothing here blocks unless its name says so, nothing logs, and every descriptor is opened with close-on-exec.
//! Errors are the kernel's own ([`std::io::Error`]); where a path or an address explains one, it is named in it.
#![forbid(unsafe_code)]

pub mod limits;
pub mod net;
pub mod notify;
pub mod poll;
pub mod process;
pub mod users;
pub mod wait;
