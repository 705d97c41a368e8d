//! Names in schemas to names in Rust.

/// Words that need `r#` in Rust.
const KEYWORDS: &[&str] = &[
    "abstract", "as", "async", "await", "become", "box", "break", "const", "continue", "do", "dyn", "else",
    "enum", "extern", "false", "final", "fn", "for", "gen", "if", "impl", "in", "let", "loop", "macro",
    "match", "mod", "move", "mut", "override", "priv", "pub", "ref", "return", "static", "struct", "trait",
    "true", "try", "type", "typeof", "unsafe", "unsized", "use", "virtual", "where", "while", "yield",
];

/// The words of a name, whichever way it joins them.
fn words(name: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut previous = '-';
    for c in name.chars() {
        if !c.is_ascii_alphanumeric() {
            previous = '-';
            continue;
        }
        let begins = previous == '-' || (c.is_ascii_uppercase() && !previous.is_ascii_uppercase());
        match words.last_mut() {
            Some(word) if !begins => word.push(c.to_ascii_lowercase()),
            _ => words.push(c.to_ascii_lowercase().into()),
        }
        previous = c;
    }
    words
}

/// The name of a field or module.
pub(crate) fn snake(name: &str) -> String {
    let snake = words(name).join("_");
    match snake.as_str() {
        "self" | "super" | "crate" => snake + "_",
        keyword if KEYWORDS.contains(&keyword) => format!("r#{snake}"),
        _ => snake,
    }
}

/// The name of a type or variant.
pub(crate) fn camel(name: &str) -> String {
    let mut camel = String::new();
    for word in words(name) {
        camel.extend(word[..1].chars().map(|c| c.to_ascii_uppercase()));
        camel.push_str(&word[1..]);
    }
    if camel == "Self" { "Self_".into() } else { camel }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_into_words_and_joined_anew() {
        let check = |name: &str, expected_snake: &str, expected_camel: &str| {
            assert_eq!((&*snake(name), &*camel(name)), (expected_snake, expected_camel), "{name}");
        };
        check("pathSteps", "path_steps", "PathSteps");
        check("require-service", "require_service", "RequireService");
        check("URL", "url", "Url");
        check("type", "r#type", "Type");
        check("self", "self_", "Self_");
        check("on-error", "on_error", "OnError");
        check("text/syndicate", "text_syndicate", "TextSyndicate");
        check("dataspacePatterns", "dataspace_patterns", "DataspacePatterns");
        check("b1", "b1", "B1");
    }
}
