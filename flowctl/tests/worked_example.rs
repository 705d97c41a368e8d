//! The worked example: one sender, one intermediary, nine receivers.
//!
//! Actor A (a client's connection, say) has an account with a limit of 5. It reads a message from its socket
//! and sends it on to D, which sends it on to O1 to O9. Everything that happens because of that message is
//! charged to A's account, though A itself sent only one event:
//!
//! | what happens | charged | repaid | A owes |
//! |---|---|---|---|
//! | A reads a message and sends it to D | 1 | | 1 |
//! | D handles it and sends to O1 ... O9 | 9 | 1 | 9 |
//! | A would read, but 9 is above 5: it stops | | | 9 |
//! | O1 handles its copy and answers | 1 | 1 | 9 |
//! | O2, O3, O4 handle theirs | | 3 | 6 |
//! | O5 handles its copy: A goes on | | 1 | 5 |
//!
//! Here D is an actor with a mailbox, so the event on its way to D is a loan of its own: D's +1 and -1. In
//! the broker routing happens on the sender's thread, within the sender's turn; there is nothing between A
//! and the O's to be charged for, and D's own +1 -1 vanishes. What is left is the same.

#![cfg(not(flowctl_loom))]

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake, Waker};

use staunch_flowctl::{Account, Ledger, LoanedItem};

const LIMIT: u64 = 5;
const OUTPUTS: u64 = 9;

/// Who receives an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    D,
    /// One of O1 to O9.
    O(u64),
    /// Whoever O1 answers to; it has no account in this and sends nothing itself.
    Client,
}

/// An event on its way. Each costs one unit.
type Event = LoanedItem<(Target, &'static str)>;

/// All mailboxes in one: what is to be handled, in order.
#[derive(Default)]
struct Mailboxes {
    waiting: VecDeque<Event>,
}

impl Mailboxes {
    /// Takes out the first event for `target`.
    fn take(&mut self, target: Target) -> Event {
        let at = self.waiting.iter().position(|event| event.0 == target).expect("there is an event");
        self.waiting.remove(at).expect("it is there")
    }

    /// The turn of `target`: it handles the first event that waits for it.
    fn run(&mut self, target: Target) {
        let event = self.take(target);
        match target {
            // What D sends is charged to the account of the event that it handles: not to D, and nobody
            // tells D whose it is.
            Target::D => {
                for n in 1..=OUTPUTS {
                    self.waiting.push_back(event.lend((Target::O(n), "forwarded"), 1));
                }
            }
            // What O1 sends in response is charged to A as well, two hops on.
            Target::O(1) => self.waiting.push_back(event.lend((Target::Client, "answer"), 1)),
            Target::O(_) | Target::Client => {}
        }
        // The event was handled completely: its loan is repaid.
        drop(event);
    }
}

/// A: a source that reads its socket as long as its account is clear.
struct Source {
    account: Arc<Account>,
    socket: VecDeque<&'static str>,
    woken: Arc<Woken>,
    waker: Waker,
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Source {
    fn new(account: Arc<Account>, socket: &[&'static str]) -> Self {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        Source { account, socket: socket.iter().copied().collect(), woken, waker }
    }

    /// Reads one message and sends it to D, or, with too much debt, stops until it is woken.
    fn poll_read(&mut self, mailboxes: &mut Mailboxes) -> Poll<()> {
        if self.account.poll_clear_funds(&self.waker).is_pending() {
            return Poll::Pending;
        }
        let message = self.socket.pop_front().expect("the socket has another message");
        mailboxes.waiting.push_back(self.account.loan((Target::D, message), 1));
        Poll::Ready(())
    }

    fn is_woken(&self) -> bool {
        self.woken.0.load(Ordering::SeqCst)
    }
}

#[test]
fn one_message_to_nine_outputs() {
    let ledger = Ledger::default();
    let account = ledger.open_account(&ledger.principal("uid:1000"), "A", LIMIT);
    let mut mailboxes = Mailboxes::default();
    let mut a = Source::new(Arc::clone(&account), &["first", "second"]);

    // A reads a message and sends it on to D.
    assert_eq!(a.poll_read(&mut mailboxes), Poll::Ready(()));
    assert_eq!(account.debt(), 1);
    assert!(account.is_clear());

    // D's nine outputs are charged to A, and D's own event is repaid.
    mailboxes.run(Target::D);
    assert_eq!(account.debt(), OUTPUTS);

    // A owes nine, which is above its limit: it stops reading, though its socket has more.
    assert!(!account.is_clear());
    assert_eq!(a.poll_read(&mut mailboxes), Poll::Pending);
    assert_eq!(a.socket.len(), 1);

    // O1 is done, which repays one, but it answers, which costs A one.
    mailboxes.run(Target::O(1));
    assert_eq!(account.debt(), 9);

    // Each of the others that is done repays one. A is not woken before it may go on.
    for (n, debt) in [(2, 8), (3, 7), (4, 6)] {
        mailboxes.run(Target::O(n));
        assert_eq!(account.debt(), debt);
        assert!(!a.is_woken());
    }
    mailboxes.run(Target::O(5));
    assert_eq!(account.debt(), LIMIT);
    assert!(a.is_woken());

    // A goes on, while O6 to O9 and the one that O1 answered have not even looked at their events.
    assert_eq!(a.poll_read(&mut mailboxes), Poll::Ready(()));
    assert_eq!(account.debt(), LIMIT + 1);
    assert_eq!(ledger.audit(mailboxes.waiting.len() as u64), Ok(()));

    // Everybody finishes, twice over for the second message: nothing is owed.
    mailboxes.run(Target::D);
    for target in (1..=OUTPUTS).map(Target::O).chain((6..=OUTPUTS).map(Target::O)) {
        mailboxes.run(target);
    }
    mailboxes.run(Target::Client);
    mailboxes.run(Target::Client);
    assert!(mailboxes.waiting.is_empty());
    assert_eq!(account.debt(), 0);
    assert_eq!(ledger.audit(0), Ok(()));
}

/// The same as the broker does it: routing in the sender's turn, so that D is charged nothing.
#[test]
fn one_message_routed_by_its_sender() {
    let ledger = Ledger::default();
    let account = ledger.open_account(&ledger.principal("uid:1000"), "A", LIMIT);

    // One turn, one charge for the whole fan-out.
    account.charge(OUTPUTS);
    let mut outputs: Vec<_> =
        (0..OUTPUTS).map(|_| staunch_flowctl::Loan::adopt(Arc::clone(&account), 1)).collect();
    assert_eq!(account.debt(), OUTPUTS);
    assert!(!account.is_clear());

    // It exceeds the limit by at most one turn's fan-out, and goes on at the limit.
    outputs.truncate(6);
    assert!(!account.is_clear());
    outputs.truncate(5);
    assert!(account.is_clear());
    drop(outputs);
    assert_eq!(ledger.audit(0), Ok(()));
}
