//! The settings for people: as a TOML file with comments, and as tables of a page.

use std::fmt::Write;

use toml::Value;

use super::{
    Config,
    check::value_of,
    load::{Origin, Origins},
    settings::{Setting, settings},
};

/// All settings as a TOML file that can be saved and used: the value that holds, meaning, default, what is allowed, and
/// where the value comes from.
#[must_use]
pub fn as_toml(config: &Config, origins: &Origins) -> String {
    let values = Value::try_from(config).expect("a table of plain values");
    let mut text = String::new();
    for section in settings() {
        let _ = writeln!(text, "# {}\n[{}]", section.meaning, section.name);
        for setting in &section.settings {
            let origin = origins.get(&setting.key).unwrap_or(&Origin::Default);
            setting_as_toml(&mut text, setting, value_of(&values, &setting.key), origin);
        }
        text.push('\n');
    }
    text
}

fn setting_as_toml(text: &mut String, setting: &Setting, value: &Value, origin: &Origin) {
    let _ = writeln!(text, "\n# {}", setting.meaning);
    let _ = writeln!(text, "# Allowed: {}.", setting.kind);
    let _ = match origin {
        Origin::Default => writeln!(text, "# This is the default."),
        origin => writeln!(text, "# Default: {}. Set by {origin}.", setting.default),
    };
    let _ = writeln!(text, "{} = {value}", setting.name());
}

/// All settings as the tables of `docs/configuration.md`.
#[must_use]
pub fn as_markdown() -> String {
    let mut text = String::new();
    for section in settings() {
        let _ = writeln!(text, "### `[{}]`\n\n{}\n", section.name, section.meaning);
        text.push_str("| key | default | meaning | allowed |\n| --- | --- | --- | --- |\n");
        for setting in &section.settings {
            let (name, default) = (setting.name(), &setting.default);
            let (meaning, allowed) = (&setting.meaning, setting.kind.to_string());
            let _ = writeln!(text, "| `{name}` | `{default}` | {meaning} | {allowed} |");
        }
        text.push('\n');
    }
    text
}
