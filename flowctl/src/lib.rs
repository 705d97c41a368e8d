//! Exact accounting of borrowed work: accounts, loans, principals and the ledger.
