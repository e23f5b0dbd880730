//! The schema is the protocol's reference: everything in it says what it means.

const SCHEMA: &str = include_str!("../ringway/v1/gateway.proto");

fn declares(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let block = ["message", "enum", "service", "rpc", "oneof"];
    let starts_block = words.next().is_some_and(|word| block.contains(&word));
    let is_option = line.starts_with("option") && !line.starts_with("optional");
    let is_reserved = line.starts_with("reserved") || line.starts_with("syntax");
    starts_block || (line.contains(" = ") && line.ends_with(';') && !is_option && !is_reserved)
}

#[test]
fn every_message_field_and_value_is_documented() {
    let mut before = "";
    let mut seen = 0;
    for line in SCHEMA.lines().map(str::trim) {
        if declares(line) {
            assert!(before.starts_with("//"), "undocumented: {line}");
            seen += 1;
        }
        before = line;
    }
    assert!(seen > 150, "only {seen} declarations were found");
}
