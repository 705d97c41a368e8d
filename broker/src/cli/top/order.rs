//! By what connections are sorted.

use std::cmp::Ordering;

use staunch_protocols::schema::ledger::Account;

use super::model::{int, throttled_since};

/// See the module's head. All but names have the most first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Order {
    /// What it owes
    Owes,
    /// What waits for it
    Holds,
    /// Bytes read from it per second
    In,
    /// Bytes that it takes per second
    Out,
    /// Events that it causes per second
    Events,
    /// Its name
    Name,
    /// For how long it is held back
    Since,
}

impl Order {
    /// The key that chooses it.
    pub(super) fn of_key(key: char) -> Option<Order> {
        Some(match key {
            'o' => Order::Owes,
            'h' => Order::Holds,
            'i' => Order::In,
            'u' => Order::Out,
            'e' => Order::Events,
            'n' => Order::Name,
            's' => Order::Since,
            _ => return None,
        })
    }

    /// The title of the column that it goes by.
    pub(super) fn column(self) -> &'static str {
        match self {
            Order::Owes => "OWES",
            Order::Holds => "HOLDS",
            Order::In => "IN/s",
            Order::Out => "OUT/s",
            Order::Events => "EV/s",
            Order::Name => "CONNECTION",
            Order::Since => "STATE",
        }
    }

    /// Sorts; those that are equal by their numbers.
    pub(super) fn sort(self, accounts: &mut [&Account], is_reversed: bool) {
        accounts.sort_by(|a, b| {
            let order = self.compare(a, b);
            let order = if is_reversed { order.reverse() } else { order };
            order.then_with(|| int(&a.party.id).cmp(&int(&b.party.id)))
        });
    }

    fn compare(self, a: &Account, b: &Account) -> Ordering {
        match self {
            Order::Owes => int(&b.debt).cmp(&int(&a.debt)).then_with(|| int(&b.held).cmp(&int(&a.held))),
            Order::Holds => int(&b.held).cmp(&int(&a.held)).then_with(|| int(&b.debt).cmp(&int(&a.debt))),
            Order::In => b.rate.bytes_in.0.total_cmp(&a.rate.bytes_in.0),
            Order::Out => b.rate.bytes_out.0.total_cmp(&a.rate.bytes_out.0),
            Order::Events => b.rate.deliveries.0.total_cmp(&a.rate.deliveries.0),
            Order::Name => a.party.name.cmp(&b.party.name),
            Order::Since => {
                let since = |account| throttled_since(account).unwrap_or(f64::INFINITY);
                since(a).total_cmp(&since(b))
            }
        }
    }
}
