//! Values as JSON, without loss: two values have the same JSON exactly if they are the same.
//!
//! | value | JSON |
//! |---|---|
//! | boolean, string, sequence | themselves |
//! | integer | a number up to 2^53 - 1 either way, otherwise `{"@integer": "12345678901234567890"}` |
//! | double | a number with a point or an exponent; `{"@double": "7ff0000000000000"}` (its bits) if it is not finite |
//! | symbol | `{"@symbol": "name"}` |
//! | byte string | `{"@bytes": "hexadecimal"}` |
//! | record | `{"@record": "label", "@fields": [..]}`; a label that is no symbol is written `{"@label": ..}` |
//! | dictionary | an object, if all keys are symbols and none begins with `@`; otherwise `{"@dictionary": [[k, v], ..]}` |
//! | set | `{"@set": [..]}` |
//! | capability | `{"@embedded": ..}`, which means something within one session only |

mod read;
mod write;

pub(super) use read::read;
pub(super) use write::{quote, write};
