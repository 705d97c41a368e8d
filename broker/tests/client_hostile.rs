//! The client against brokers that are none: whatever comes, it ends with an error, and soon.

mod common;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use common::{Random, bytes};
use staunch::client::{BrokerAddress, Error, Session};
use staunch_protocols::sturdy::SturdyRef;

/// Serves connections one after the other, with a client for each.
struct Stage {
    _folder: tempfile::TempDir,
    listener: UnixListener,
    address: BrokerAddress,
}

impl Stage {
    fn new() -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        Stage { _folder: folder, listener, address: BrokerAddress::Unix(path) }
    }

    /// Opens a session with `serve`, and what becomes of it when that is done.
    fn meet(&self, serve: impl FnOnce(UnixStream) + Send) -> Result<Session, Error> {
        std::thread::scope(|scope| {
            scope.spawn(|| serve(self.listener.accept().unwrap().0));
            let reference = SturdyRef::mint(b"\xb1\x01x", b"");
            Session::open(&self.address, &reference, Duration::from_secs(30))
        })
    }
}

const GRANTED: &str = "[[0 <A <ok #:[0 5]> 1>]]";

#[test]
fn bytes_of_any_kind_end_a_session_with_an_error() {
    let stage = Stage::new();
    let mut random = Random::new("bytes_of_any_kind_end_a_session_with_an_error");
    let valid = bytes(&format!(
        "{GRANTED} #f <error \"\" #f> [[2 <M [a 1.0 #:[0 1]]>] [1 <M #t>] [3 <S #:[0 9]>] [2 <R 1>]] <ext {{a: #{{1 2}}}}>"
    ));
    for _ in 0..2000 {
        let mut sent = valid.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(sent.len() as u64) as usize;
            match random.below(4) {
                0 => sent[at] = random.next() as u8,
                1 if sent.len() > 1 => _ = sent.remove(at),
                2 => sent.insert(at, [0xb5, 0xb4, 0x84, 0xb7][random.below(4) as usize]),
                _ => sent.truncate(at.max(1)),
            }
        }
        let met = stage.meet(|mut stream| {
            let _ = stream.write_all(&sent);
        });
        let Ok(mut session) = met else { continue };
        session.observe(b"\xb4\xb3\x01_\x84");
        session.sync();
        // The other side has hung up: what it said is read to its end.
        loop {
            match session.flush().and_then(|()| session.hear(|_, _| Ok(()))) {
                Ok(true) => {}
                Ok(false) => _ = session.wait(&[], Some(Duration::from_secs(30))).unwrap(),
                Err(_) => break,
            }
        }
    }
}

#[test]
fn a_refusal_is_told_with_its_reason() {
    let stage = Stage::new();
    let answers = |packets: &str| {
        let sent = bytes(packets);
        stage.meet(move |mut stream| {
            stream.write_all(&sent).unwrap();
            // Until the client has gone.
            let _ = stream.read_to_end(&mut Vec::new());
        })
    };
    assert!(matches!(answers("[[0 <A <error no> 1>]]"), Err(Error::Refused(why)) if why == "no"));
    assert!(matches!(answers("[[0 <A <ok 1> 1>]]"), Err(Error::Refused(why)) if why == "1"));
    assert!(matches!(answers("<error \"too busy\" #f>"), Err(Error::Peer(why)) if why == "too busy"));
    assert!(matches!(answers("7"), Err(Error::NotABroker(_))));
    assert!(matches!(answers("#f 7"), Err(Error::Malformed(_))));
}

/// Both generations of gatekeepers grant, and a Sync of the broker's is answered at the entity that it names.
#[test]
fn syncs_are_answered() {
    let stage = Stage::new();
    std::thread::scope(|scope| {
        let answered = scope.spawn(|| {
            let (mut stream, _) = stage.listener.accept().unwrap();
            let mut said = vec![0; 4096];
            assert!(stream.read(&mut said).unwrap() > 0, "a question");
            stream.write_all(&bytes("[[0 <A <accepted #:[0 5]> 1>]] [[0 <S #:[0 77]>]]")).unwrap();
            let length = stream.read(&mut said).unwrap();
            said[..length].to_vec()
        });
        let reference = SturdyRef::mint(b"\xb1\x01x", b"");
        let mut session = Session::open(&stage.address, &reference, Duration::from_secs(30)).unwrap();
        while session.flush().and_then(|()| session.hear(|_, _| Ok(()))).is_ok() {
            session.wait(&[], Some(Duration::from_secs(30))).unwrap();
        }
        assert_eq!(answered.join().unwrap(), bytes("[[77 <M #t>]]"));
    });
}
