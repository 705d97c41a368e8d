//! Reads and writes the records of its own schemas.
#![deny(missing_docs, warnings)]

use staunch_protocols::schema::{gatekeeper, sturdy, Codec, Embedded, Value};
use staunch_protocols::wire::Limits;

include!(concat!(env!("OUT_DIR"), "/schemas.rs"));

fn main() {
    let bytes = |content: &[u8]| Value::of(&content.to_vec());
    let invitation = chat::Invitation {
        room: sturdy::SturdyRef {
            parameters: sturdy::Parameters {
                oid: bytes(b"room"),
                sig: vec![0; 16],
                caveats: sturdy::CaveatsField::Absent,
            },
        },
        route: gatekeeper::Route { transports: vec![], path_steps: vec![] },
        accepted: Embedded(sturdy::WireRef::Mine { oid: 3.into() }),
    };
    let letter = chat::Letter { invitation, word: chat::WordField::Present { word: "come".into() } };
    let written = letter.to_bytes();
    assert_eq!(chat::Letter::from_bytes(&written, &Limits::default()), Ok(letter));

    let error = chat::Says::from_bytes(b"\xb4\xb3\x04says\x80\xb0\x00\x84", &Limits::default()).unwrap_err();
    assert_eq!(error.to_string(), "position 8: expected chat.Text");
    println!("{}", Value::from_bytes(&written, &Limits::default()).unwrap());
}
