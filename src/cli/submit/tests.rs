use super::lines::{Invalid, Lines};
use crate::codec::decode::RECORD_BYTES_MAX;

/// Keys of the valid lines, numbers of the others.
fn check(input: &str, expected: &[Result<&str, (u64, &str)>]) {
    let found: Vec<Result<String, Invalid>> =
        Lines::new(input.as_bytes()).map(|line| line.unwrap().map(|valid| valid.key)).collect();
    let expected: Vec<Result<String, Invalid>> = expected
        .iter()
        .map(|line| {
            line.map(str::to_owned)
                .map_err(|(line, problem)| Invalid { line, problem: problem.to_owned() })
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn the_key_keeps_together_what_belongs_together() {
    check(
        r#"{"task_id":"t","input_tokens":1}
{"task_id":"t","input_tokens":1,"tenant":"acme"}
{"task_id":"t","input_tokens":1,"tenant":"acme","session":"s"}"#,
        &[Ok("t"), Ok("acme"), Ok("s")],
    );
}

#[test]
fn lines_that_are_no_tasks_are_named_by_number() {
    check(
        "\n{\"task_id\":\"a\",\"input_tokens\":1}\r\n  \nnope\n{\"task_id\":\"\",\"input_tokens\":1}\n",
        &[
            Ok("a"),
            Err((4, "json: expected ident at line 1 column 2")),
            Err((5, "task_id: an empty string is not allowed; a name of at least one byte")),
        ],
    );
}

#[test]
fn a_line_that_is_too_long_is_passed_over_without_losing_the_next() {
    let long = format!(
        "{{\"task_id\":\"{}\",\"input_tokens\":1}}\n{{\"task_id\":\"b\",\"input_tokens\":1}}",
        "a".repeat(RECORD_BYTES_MAX)
    );
    let found: Vec<_> = Lines::new(long.as_bytes()).map(Result::unwrap).collect();
    assert_eq!(found.len(), 2);
    let error = found[0].as_ref().unwrap_err();
    assert!(error.problem.contains("at most 2097152 are read"), "{}", error.problem);
    assert_eq!(found[1].as_ref().unwrap().key, "b");
}

#[test]
fn bytes_are_passed_on_as_they_are_and_counted_with_their_line_end() {
    let line = "{ \"task_id\": \"é\", \"input_tokens\": 1, \"payload\": 1.0 }";
    let input = format!("{line}\r\n");
    let valid = Lines::new(input.as_bytes()).next().unwrap().unwrap().unwrap();
    assert_eq!((valid.json, valid.line_bytes), (line.as_bytes().to_vec(), input.len() as u64));
}
