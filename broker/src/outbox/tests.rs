use staunch_flowctl::{Ledger, Limits};

use super::*;

/// A write fails with a piece half written and others behind it: whoever flushes next finds nothing, and all is repaid.
#[test]
fn a_failed_write_leaves_nothing_behind() {
    let ledger = Ledger::default();
    let account = ledger.open_account(&ledger.principal("p"), "a", Limits::unlimited());
    let (ours, theirs) = Stream::pair().unwrap();
    let outbox = Outbox::new(64 << 20);
    let (mut pool, mut repayments, mut counts) =
        (Pool::default(), Repayments::default(), CallCounts::default());
    let mut pieces = vec![Segment::Inline(vec![0x80; 4 << 20])];
    pieces.extend((0..20).map(|_| Segment::Inline(vec![0x80; 10])));
    let bytes: u64 = pieces.iter().map(|piece| piece.bytes().len() as u64).sum();
    account.charge(bytes);
    outbox.append(&mut pieces, &mut Vec::new(), &account, bytes, &mut pool);
    let blocked = outbox.flush(&ours, &mut pool, &mut repayments, &mut counts);
    assert!(matches!(blocked, Flushed::Blocked), "the kernel does not take so much");
    drop(theirs);
    assert!(outbox.writable());
    let failed = outbox.flush(&ours, &mut pool, &mut repayments, &mut counts);
    assert!(matches!(failed, Flushed::Failed));
    // Before the session closes it, others may append and flush.
    account.charge(5);
    let mut more = vec![0x80; 5];
    assert!(!outbox.append(&mut Vec::new(), &mut more, &account, 5, &mut pool).can_flush);
    assert!(matches!(outbox.flush(&ours, &mut pool, &mut repayments, &mut counts), Flushed::Done));
    repayments.repay_all();
    assert_eq!(account.debt(), 0);
}
