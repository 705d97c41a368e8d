//! Text that arrives in pieces.

mod common;

use staunch_protocols::text::{self, StreamReader, TextError, TextErrorKind};
use staunch_protocols::wire::Limits;

/// What comes of pieces: the values, and what is wrong behind them.
fn read<'a>(
    pieces: impl IntoIterator<Item = &'a [u8]>,
    limits: Limits,
) -> (Vec<Vec<u8>>, Option<TextError>, bool) {
    let mut reader = StreamReader::new(limits);
    let mut values = Vec::new();
    for mut piece in pieces {
        while !piece.is_empty() {
            match reader.read(piece) {
                Ok((read, value)) => {
                    assert!(value.is_some() || read == piece.len());
                    values.extend(value.map(<[u8]>::to_vec));
                    piece = &piece[read..];
                }
                Err(error) => return (values, Some(error), false),
            }
        }
    }
    (values, None, reader.is_idle())
}

const TEXT: &str = r##"
# A comment, and one that is empty:
#
#!/a/third
[[0 <A <resolve <ref {oid: "syndicate", sig: #[acowDB2/oI+6aSEC3YIxGg==]}> #:[0 0]> 1>]]#f[]
@annotated @twice <do "\"\\\/\b\f\n\r\t\u00e4\ud83d\ude00" 'a \' b'>,"##;

const REST: &str = r##"
[1, -2, +3, 4.5e1, -0.0 #xd"400921fb54442d18" #x"00 ff" #"a\x00\"b" #{3 1 2} {z: 1 a: {}} symbol # not the end ]
 äöü-☃ #t, @a @b c] # comment
[[1 <M @x {@k a: @v b}>]]
"##;

#[test]
fn pieces_come_to_what_the_whole_does() {
    let text = TEXT.trim_end_matches(',').to_owned() + REST;
    let all = text::parse_all(&text, &Limits::default()).unwrap();
    let bytes = text.as_bytes();
    let check = |pieces: &mut dyn Iterator<Item = &[u8]>, what: &str| {
        let (values, error, is_idle) = read(pieces, Limits::default());
        assert_eq!(error, None, "{what}");
        assert!(is_idle, "{what}");
        assert_eq!(values.concat(), all[1..all.len() - 1], "{what}");
    };
    for step in 1..=bytes.len() {
        check(&mut bytes.chunks(step), &format!("every {step}"));
    }
    for cut in 0..bytes.len() {
        let (a, b) = bytes.split_at(cut);
        check(&mut [a, b].into_iter(), &format!("at {cut}"));
    }
}

#[test]
fn errors_are_the_same_wherever_the_text_is_cut() {
    use TextErrorKind::*;
    let limits = Limits { packet_bytes_max: 60, depth_max: 4, tokens_max: 12, integer_bytes_max: 8 };
    let check = |text: &[u8], line, column, what: TextErrorKind| {
        for step in 1..=text.len() {
            let (_, error, _) = read(text.chunks(step), limits);
            let shown = String::from_utf8_lossy(text);
            assert_eq!(error, Some(TextError { line, column, what }), "{shown}, every {step}");
        }
    };
    check(b"]", 1, 1, Unexpected(']'));
    check("[]\n\"ä\n\" [ä <a}".as_bytes(), 3, 8, Unexpected('}'));
    check(b"[\n a: ]", 2, 3, Unexpected(':'));
    check(b"[] , []", 1, 4, Unexpected(','));
    check(b"<>", 1, 2, MissingLabel);
    check(b"<a ,", 1, 4, Unexpected(','));
    check(b"{a:b, c}", 1, 8, Unexpected('}'));
    check(b"\"a\\qb\"", 1, 3, Escape);
    check(b"\"\\ud800x\"", 1, 2, CodePoint);
    check(b"\"\\u12\"", 1, 6, Hex);
    check(b"#\"\\u0041\"", 1, 3, Escape);
    check(b"#x\"0\"", 1, 5, Hex);
    check(b"#x\"0g\"", 1, 5, Hex);
    check(b"#[A]", 1, 4, Base64);
    check(b"#xd\"00\"", 1, 1, DoubleLength);
    check(b"#z", 1, 1, Hash);
    check(b"#xz", 1, 1, Hash);
    check(b"#true ", 1, 1, Hash);
    check(b"[a\xff ", 1, 3, Utf8);
    check(b"\"\xe2\x82\"", 1, 2, Utf8);
    check(b"#\xe2\x82\xac", 1, 2, Utf8);
    check(b"#{1 2 +1}", 1, 9, Duplicate);
    check(b"{a: 1, 'a': 2}", 1, 14, Duplicate);
    check(b"[[[[[", 1, 5, TooDeep(4));
    check(b"[@[[[[", 1, 5, TooDeep(4));
    check(b"[1 2 3 4 5 6 7 8 9 10 11 12]", 1, 26, TooManyTokens(12));
    check(b"18446744073709551616 ", 1, 1, IntegerTooLong(8));
    check(&[b'9'; 70], 1, 1, TooLong(60));
    check(&[&b"\""[..], &[b'x'; 80]].concat(), 1, 1, TooLong(60));
    check(&[&b"[\"0123456789\" "[..]; 2].concat().repeat(3), 1, 57, TooDeep(4));
}

#[test]
fn what_is_dropped_takes_neither_room_nor_depth() {
    let limits = Limits { packet_bytes_max: 100, depth_max: 8, ..Limits::default() };
    let text = [&b"[@a "[..], &b"@annotation ".repeat(1_000_000), b"x # comment \xff\n]"].concat();
    let comments = b"# another\n".repeat(1_000_000);
    let (values, error, is_idle) = read(text.chunks(1000).chain([&comments[..]]), limits);
    assert_eq!((values, error, is_idle), (vec![common::parse_text("[x]")], None, true));
    // Tokens count, dropped or not.
    let (_, error, _) = read([&b"[ @a x "[..], &b"@a ".repeat(5_000_000)], Limits { depth_max: 8, ..limits });
    assert_eq!(error.unwrap().what, TextErrorKind::TooManyTokens(4 << 20));
}

#[test]
fn something_else_is_left_alone() {
    let mut reader = StreamReader::new(Limits::default());
    assert_eq!(reader.read(b"[] # \xff\n \xb5\x84"), Ok((2, Some(&b"\xb5\x84"[..]))));
    assert_eq!(reader.read(b" # \xff\n \xb5\x84"), Ok((6, None)));
    assert!(reader.is_idle());
    assert_eq!(reader.read(b"\xb5\x84"), Ok((0, None)));
}

#[test]
fn tiny_pieces_of_a_long_token_cost_no_more_than_a_whole() {
    let mut text = b"\"".to_vec();
    text.resize(8 << 20, b'x');
    text.extend(b"\" ");
    let start = std::time::Instant::now();
    let (values, error, _) = read(text.chunks(3), Limits::default());
    assert_eq!((values.len(), error), (1, None));
    // Anything quadratic takes hours.
    assert!(start.elapsed().as_secs() < 60);
}
