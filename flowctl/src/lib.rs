//! Exact accounting of borrowed work: accounts, loans, principals and the ledger.
//!
//! A broker that reads from its clients faster than it can deliver must either lose something, grow without
//! bound, or stop reading. This crate decides *whom* to stop reading, and when to go on, so that memory is
//! bounded, nothing is lost, and the one who is slowed is the one who caused the load. It knows no runtime,
//! no sockets and no messages.
//!
//! # The model
//!
//! Each source of activity (a connection, a timer, a child process) has an [`Account`]. Each event in the
//! broker is a *loan* against the account of its ultimate cause, of a *cost* in which events and bytes both
//! weigh: what is sent while handling an event is charged to the account that the handled event is charged
//! to, however many hops on. When an event has been completely processed (for an event to a peer: when the
//! kernel has taken its bytes) its loan is repaid. What an account has borrowed and not repaid is its *debt*.
//! A source whose debt is above its limit is not read, until the debt has fallen to the limit, or to the
//! *resume level* below it: see [`Limits`].
//!
//! A loan is a value: a [`LoanedItem`] carries its debt wherever it goes and repays it when it is dropped,
//! also by a panic. In an outbox, where an item per event would cost too much, the debts are [`DebtRuns`]:
//! "the first 800 bytes here are charged to this account, at 1,000 units".
//!
//! Debt outlives its connection. Each account belongs to a [`Principal`], the one who answers for it; when a
//! source is gone its account is [retired](Account::retire), and what it owes becomes the principal's
//! *orphaned* debt. While that is over the principal's own limit its *new* connections are not read, so
//! reconnecting is no way out; live connections are gated by their own accounts alone. How many connections a
//! principal has is bounded too.
//!
//! The [`Ledger`] lists all of them: who owes how much, who waits, who is gone. Its [audit](Ledger::audit)
//! checks that the debts are exactly the loans there are.
//!
//! ```
//! use std::task::{Poll, Waker};
//! use staunch_flowctl::Ledger;
//! use staunch_flowctl::runs::DebtRuns;
//!
//! let ledger = Ledger::default();
//! let principal = ledger.principal("uid:1000");
//! let connection = principal.try_open().expect("there may be 1,024");
//! let account = ledger.open_account(&principal, "unix:7", 100);
//!
//! // An event was read; its handler sends two more, one of which waits in somebody's outbox.
//! let event = account.loan("hello", 40);
//! let reply = event.lend("hello yourself", 50);
//! let mut outbox = DebtRuns::new();
//! account.charge(60);
//! outbox.push(&account, 480, 60);
//! drop(event);
//! assert_eq!(account.debt(), 110);
//!
//! // That is over the limit: the source stops, and says how to wake it.
//! assert!(!account.is_clear());
//! assert_eq!(account.poll_clear_funds(Waker::noop()), Poll::Pending);
//!
//! // The kernel takes some bytes of the outbox; the source goes on.
//! assert_eq!(outbox.settle(160), 20);
//! assert_eq!(account.debt(), 90);
//! assert!(account.is_clear());
//!
//! // It hangs up. What it owes is the principal's now, until it has been delivered.
//! account.retire();
//! drop(connection);
//! assert_eq!(principal.orphaned(), 90);
//! drop(reply);
//! outbox.settle_all();
//! assert_eq!(principal.orphaned(), 0);
//! assert_eq!(ledger.audit(0), Ok(()));
//! assert!(ledger.snapshot().is_empty());
//! ```
//!
//! # Layout
//!
//! | module | holds |
//! |---|---|
//! | `gate` | the word of debt and flags, limits, parking and waking: all of the lock-free protocol |
//! | `account`, `principal` | a gate each, with a name and what follows from being one |
//! | `loan` | [`Loan`] and [`LoanedItem`] |
//! | [`runs`] | [`DebtRuns`], the debts in an outbox |
//! | `policy` | limits and their bounds |
//! | `ledger` | the lists of accounts and principals, snapshots, the audit |
//! | `sync`, `fault`, `model` | std's or loom's types; deliberate faults; the models |
//!
//! # Locks
//!
//! **Invariant:** charging a live account is one atomic `fetch_add`. Repaying one is one `fetch_sub` and a
//! test of what it returned, except for the one repayment that ends a wait, which takes the wakers out of a
//! small mutex. Debt and "somebody waits" are in one word and changed by read-modify-writes only, so no
//! wake-up can be lost between them and no fence is needed; the `gate` module has the argument, and each
//! ordering its reason beside it and, with one exception that `model` names, a model that fails without it.
//!
//! A *retired* account costs more: each charge and repayment is done on its principal too, and the last one
//! takes the ledger's lock.

#![forbid(unsafe_code)]

mod account;
mod fault;
mod gate;
mod ledger;
mod loan;
#[cfg(all(test, flowctl_loom))]
mod model;
mod policy;
mod principal;
pub mod runs;
mod sync;

pub use account::Account;
pub use ledger::{AccountRow, AuditError, Ledger, PrincipalRow};
pub use loan::{Loan, LoanedItem};
pub use policy::{COST_MAX, DEBT_MAX, Limits, PrincipalLimits};
pub use principal::{ConnectionsExhausted, OpenConnection, Principal};
pub use runs::{DebtRuns, Repayments};
