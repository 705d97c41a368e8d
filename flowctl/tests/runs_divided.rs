//! Lists of debts that are taken apart and put together again.

use staunch_flowctl::{DebtRuns, Ledger, Limits};

#[test]
fn lists_are_divided_and_joined_without_loss() {
    let ledger = Ledger::default();
    let principal = ledger.principal("p");
    let accounts = ["a", "b"].map(|name| ledger.open_account(&principal, name, Limits::unlimited()));
    let pushed = [(0, 10, 97), (0, 0, 3), (1, 7, 50), (0, 5, 5), (1, 0, 1)];
    let bytes: u64 = pushed.iter().map(|(_, bytes, _)| bytes).sum();
    let owed = |runs: &DebtRuns| runs.iter().map(|run| run.cost).sum::<u64>();
    for (first, second) in
        (0..=bytes).flat_map(|first| (0..=bytes - first).map(move |second| (first, second)))
    {
        let mut runs = DebtRuns::new();
        for (account, bytes, cost) in pushed {
            accounts[account].charge(cost);
            runs.push(&accounts[account], bytes, cost);
        }
        let (mut front, mut middle) = (DebtRuns::new(), DebtRuns::new());
        runs.move_front(first, &mut front);
        runs.move_front(second, &mut middle);
        assert_eq!((front.total_bytes(), middle.total_bytes()), (first, second));
        assert_eq!(owed(&front) + owed(&middle) + owed(&runs), 156);
        drop(middle);
        front.append(runs);
        assert_eq!((front.total_bytes(), owed(&front)), (bytes - second, front.total_cost()));
        assert_eq!(ledger.audit(front.total_cost()), Ok(()));
        front.settle_all();
        assert_eq!(ledger.total_debt(), 0);
    }
}
