//! Connections that do nothing, and what each costs the broker in memory.

use crate::client::{Client, Error};
use crate::report::Sample;
use crate::scenario::crowd::per_each;
use crate::settings::Settings;

/// Opens `count` connections and leaves them alone; measures once when they have only connected, and once when
/// each has resolved the well-known reference.
pub fn run(settings: &Settings, count: usize) -> Result<Vec<Sample>, Error> {
    settings.require_syndicate("idle")?;
    super::raise_descriptor_limit(count as u64)?;
    let mut sample = Sample { point: format!("{count} idle"), ..Sample::default() };
    let before = settings.broker_rss_kib()?;
    let mut screen = settings.screen.begin("idle");
    let mut clients = Vec::with_capacity(count);
    for n in 0..count {
        clients.push(Client::connect(settings.contact(), settings.barrier)?);
        screen.counts(|| count as u64, n as u64);
    }
    let connected = settings.broker_rss_kib()?;
    for (n, client) in clients.iter_mut().enumerate() {
        client.resolve()?;
        screen.counts(|| count as u64, n as u64);
    }
    let resolved = settings.broker_rss_kib()?;
    drop(clients);
    let after = settings.broker_rss_kib()?;
    screen.end();
    per_each(&mut sample, "rss_bytes_per_connected", before, connected, count as u64);
    per_each(&mut sample, "rss_bytes_per_resolved", before, resolved, count as u64);
    for (name, kib) in
        [("rss_before_mib", before), ("rss_connected_mib", connected), ("rss_resolved_mib", resolved)]
            .into_iter()
            .chain([("rss_after_mib", after)])
    {
        sample.extra.extend(kib.map(|kib| (name, kib as f64 / 1024.0)));
    }
    Ok(vec![sample])
}
