//! What is said about schemas that are wrong, and where.

use staunch_schemac::Compiler;

/// Compiles modules `a` and `b`, of which `a` has its version on the first line.
fn faults(a: &str, b: &str) -> String {
    let a = format!("version 1 .\n{a}");
    let compiler = Compiler::new().text("a", "a.prs", &a).text("b", "b.prs", &format!("version 1 .\n{b}"));
    compiler.check().err().map(|faults| faults.to_string()).unwrap_or_default()
}

fn check(source: &str, expected: &str) {
    assert_eq!(faults(source, "Other = any ."), expected, "{source}");
}

#[test]
fn syntax() {
    check("X = <a", "a.prs:2:5: the text ends before this does");
    check("X = any", "a.prs:2:1: a clause ends with a full stop that stands alone");
    check("X any .", "a.prs:2:1: expected `version 1 .`, `embeddedType ... .` or `Name = ... .`");
    check("x = any .", "a.prs:2:1: a definition's name is a capital, then letters, digits and underscores");
    check("X = .", "a.prs:2:5: a pattern is missing here");
    check("X = any / .", "a.prs:2:11: a pattern is missing here");
    check("X = any / / any .", "a.prs:2:11: a pattern is missing here");
    check("X = any any .", "a.prs:2:9: expected `/`, `&` or `.`");
    check("X = @a any .", "a.prs:2:8: a name has no use here: the definition has one");
    check(
        "X = @a {} / @b {} & @c {} .",
        "a.prs:2:19: `/` and `&` do not mix: give one of them its own definition",
    );
    check("X = [a-b] .", "a.prs:2:6: expected a pattern; the symbol x itself is written `=x`");
    check("X = [float] .", "a.prs:2:6: there is no `float` any more: use `double`");
    check("X = [... any] .", "a.prs:2:6: `...` follows the last pattern of a sequence or record");
    check("X = <\"a\"> .", "a.prs:2:6: a label that is no symbol is written `<<rec> label fields>`");
    check("X = <<rec> a> .", "a.prs:2:6: expected `<<lit> value>` or `<<rec> label fields>`");
    check(
        "X = <<rec> @l any any> .",
        "a.prs:2:19: the fields of a record are written like a sequence: `[p q]`, or `@name [p ...]`",
    );
    check("X = <<lit> #:1> .", "a.prs:2:12: an embedded value cannot be a literal");
    check("X = #{any any} .", "a.prs:2:5: a set pattern has one element: what all elements are like");
    check("X = {any: any ...: any} .", "a.prs:2:15: expected `...:...`");
    check("X = <a @b @c any> .", "a.prs:2:12: one name is enough");
    check("X = <a @b-c any> .", "a.prs:2:9: a name is a letter, then letters, digits and underscores");
    check("include \"x\" .", "a.prs:2:1: include is not supported: refer to `module.Name`");
}

#[test]
fn versions() {
    check("version 2 .", "a.prs:2:9: unsupported version of the schema language: this is for version 1");
    let missing = Compiler::new().text("a", "a.prs", "X = any .").check().unwrap_err();
    assert_eq!(missing.to_string(), "a.prs: the clause `version 1 .` is missing");
}

#[test]
fn names() {
    check("X = any . X = any .", "a.prs:2:11: X is defined twice");
    check("E = any .", "a.prs:2:1: E is a name that generated code needs");
    check("X = Y .", "a.prs:2:5: this module defines no Y");
    check("X = [b.Y ...] .", "a.prs:2:6: the module b defines no Y");
    check("X = <x @y #:c.Y> .", "a.prs:2:13: there is no module c");
    check("X = <x @a any @a any> .", "a.prs:2:18: another part is named a");
    check("X = <x @fooBar any @foo_bar any> .", "a.prs:2:29: another part is named foo_bar");
    check("X = <x any> .", "a.prs:2:8: this part needs a name: write `@name` before it");
    check("X = <x any ...> .", "a.prs:2:8: this part needs a name: write `@name` before it");
    check("X = {\"a\": any} .", "a.prs:2:11: this part needs a name: write `@name` before it");
    check("X = <a> / int .", "a.prs:2:11: this alternative needs a name: write `@name` before it");
    check("X = <a> / @a <b> .", "a.prs:2:14: another alternative is named a: write `@name` before one");
    check("X = <x @a <y>> .", "a.prs:2:11: a literal or compound inside another takes no name: its parts do");
    let twice = Compiler::new().text("aB", "x/aB.prs", "version 1 .").text("a_b", "a_b.prs", "version 1 .");
    assert_eq!(twice.check().unwrap_err().to_string(), "a_b.prs: the module a_b is also in x/aB.prs");
}

#[test]
fn collections_and_intersections() {
    check("X = [=a ...] .", "a.prs:2:1: a literal or compound in a collection needs a definition of its own");
    check(
        "X = {int: [int int] ...:...} .",
        "a.prs:2:1: a literal or compound in a collection needs a definition of its own",
    );
    check(
        "X = {a: int} & {a: int} .",
        "a.prs:2:20: another part has this key\na.prs:2:20: another part is named a",
    );
    check("X = {a: int} & @b any .", "a.prs:2:19: what `&` joins are dictionaries with keys that are told");
    check("X = {a: int} & Y . Y = {} .", "a.prs:2:16: this part needs a name: write `@name` before it");
    check("X = {a: int} & @y Y . Y = @p {b: int} / @q {} .", "");
}

#[test]
fn alternatives_that_are_never_reached() {
    let shadowed = |at: &str, by: &str| {
        format!(
            "a.prs:2:{at}: this alternative is never reached: what fits it fits {by} before it, since surplus is ignored"
        )
    };
    check("X = @a any / @b int .", &shadowed("17", "a"));
    check("X = @a symbol / =b .", &shadowed("17", "a"));
    check("X = @a <x> / @b <x @i int> .", &shadowed("17", "a"));
    check("X = @a {x: any} / @b {x: int y: int} .", &shadowed("22", "a"));
    check("X = Y / @z <y @i int> . Y = <y> .", &shadowed("12", "Y"));
    check("X = @a [any ...] / @b [@c int @d int ...] .", &shadowed("23", "a"));
    check("X = @a #:int / @b #:any .", &shadowed("19", "a"));
    for fine in [
        "X = @a int / @b any .",
        "X = @b <x @c int> / @a <x> .",
        "X = @a {x: int} / @b {x: any} / @c {} .",
        "X = @a [int ...] / @b [any ...] .",
        "X = @a [@x int @y int ...] / @b [int ...] .",
        "X = Y / @z <y> . Y = <y @a int> .",
    ] {
        check(fine, "");
    }
}

#[test]
fn definitions_without_end() {
    check("X = <x @x X> .", "a.prs:2:1: every value of this would hold another one, without end");
    check("X = X .", "a.prs:2:1: every value of this would hold another one, without end");
    check("X = X / @b int .", "a.prs:2:1: this refers to itself with nothing around it");
    check(
        "X = Y / @b int . Y = X / @c bool .",
        "a.prs:2:1: this refers to itself with nothing around it\na.prs:2:18: this refers to itself with nothing around it",
    );
    check("X = <x @x X> / <end> .", "");
    check("X = [X ...] .", "");
    check("X = <x @peer #:X> .", "");
}

#[test]
fn all_faults_are_told_in_order() {
    let told = faults("X = Y .\nZ = <z any> .", "X = a.Q .");
    let lines: Vec<&str> = told.lines().collect();
    assert_eq!(
        lines,
        [
            "a.prs:2:5: this module defines no Y",
            "a.prs:3:8: this part needs a name: write `@name` before it",
            "b.prs:2:5: the module a defines no Q",
        ]
    );
    let missing = Compiler::new().directory("no/such/folder").check().unwrap_err().to_string();
    assert!(missing.starts_with("no/such/folder: "), "{missing}");
}

#[test]
fn comments_become_documentation() {
    let source = "# The module.\n\nversion 1 .\n\n# A <thing> of [two] parts, `<kept>`.\nX = <x\n# The first.\n@a any @b any> .\n";
    let code = Compiler::new().text("a", "dir/a.prs", source).generate().unwrap();
    for expected in [
        r#"#[doc = "The module."]"#,
        r#"#[doc = "A \\<thing\\> of \\[two\\] parts, `<kept>`."]"#,
        r#"#[doc = "From `a.prs`, line 6:"]"#,
        "#[doc = \"The first.\"]\npub a: ::staunch_protocols::schema::Value,",
        "#[doc = \"The part `b`.\"]\npub b: ::staunch_protocols::schema::Value,",
    ] {
        assert!(code.contains(expected), "{expected} in {code}");
    }
}

#[test]
fn other_crates_types_are_named_and_not_generated() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../schemas");
    let source = "version 1 . Ask = <ask @ref sturdy.SturdyRef @route gatekeeper.Route @cap #:any @how gatekeeper.Resolve> .";
    let compiler = Compiler::new().text("mine", "mine.prs", source).import(folder, "::other::schema");
    let code = compiler.runtime("crate::runtime").generate().unwrap();
    for expected in [
        "pub struct Ask<E = crate::runtime::Value> {",
        "pub r#ref: ::other::schema::sturdy::SturdyRef,",
        "pub route: ::other::schema::gatekeeper::Route,",
        "pub cap: crate::runtime::Embedded<E>,",
        "pub how: ::other::schema::gatekeeper::Resolve<E>,",
    ] {
        assert!(code.contains(expected), "{expected} in {code}");
    }
    assert!(!code.contains("pub mod sturdy"), "{code}");
}
