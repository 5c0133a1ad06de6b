//! Which names a topic may have.

const LENGTH_MAX: usize = 249;

/// # Errors
/// What is wrong with it, in Kafka's words.
pub fn check(name: &str) -> Result<(), String> {
    let wrong = |what: String| Err(format!("Topic name is invalid: {what}"));
    if name.is_empty() {
        return wrong("the empty string is not allowed".to_owned());
    }
    if [".", ".."].contains(&name) {
        return wrong(format!("'{name}' is not allowed"));
    }
    if name.len() > LENGTH_MAX {
        return wrong(format!(
            "the length of '{name}' is longer than the max allowed length {LENGTH_MAX}"
        ));
    }
    if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
        return wrong(format!(
            "'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'"
        ));
    }
    Ok(())
}

/// Kafka's metrics cannot tell a dot from an underscore, so names that differ in that only are refused.
pub fn collide(one: &str, other: &str) -> bool {
    one != other
        && one.len() == other.len()
        && one.bytes().zip(other.bytes()).all(|pair| match pair {
            (b'.' | b'_', b'.' | b'_') => true,
            (one, other) => one == other,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let long = "a".repeat(250);
        let rows = [
            ("tasks", None),
            ("a.b_c-1", None),
            (&long[..249], None),
            ("", Some("Topic name is invalid: the empty string is not allowed")),
            (".", Some("Topic name is invalid: '.' is not allowed")),
            ("..", Some("Topic name is invalid: '..' is not allowed")),
            (
                "a b",
                Some(
                    "Topic name is invalid: 'a b' contains one or more characters other than \
                     ASCII alphanumerics, '.', '_' and '-'",
                ),
            ),
        ];
        for (name, wrong) in rows {
            assert_eq!(check(name).err().as_deref(), wrong, "{name}");
        }
        let wrong = "is longer than the max allowed length 249";
        assert!(check(&long).unwrap_err().ends_with(wrong));
    }

    #[test]
    fn names_that_differ_in_dots_only_collide() {
        let rows = [("a.b", "a_b", true), ("a.b", "a.b", false), ("a.b", "a-b", false)];
        for (one, other, expected) in rows {
            assert_eq!(collide(one, other), expected, "{one} {other}");
        }
    }
}
