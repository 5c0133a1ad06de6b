//! The configuration for people: what is in force and why, and the reference of all settings.

use super::error::Origin;
use super::settings::{Fallback, Kind, SETTINGS, Setting};

/// A setting as it is in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    pub key: String,
    /// `None`: not set. The text of a secret is not in here.
    pub value: Option<String>,
    pub secret: bool,
    pub origin: Origin,
}

impl Effective {
    /// The value as it may be printed.
    pub fn shown(&self) -> String {
        match (&self.value, self.secret) {
            (None, _) => "not set".to_owned(),
            (Some(_), true) => "[redacted]".to_owned(),
            (Some(value), false) => super::validate::quoted(value).replace('`', ""),
        }
    }
}

/// Every setting, as Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# Configuration\n\n\
         <!-- Made by `pointsman config reference`; do not edit. -->\n\n\
         `pointsman run --config pointsman.toml` reads a TOML file; without one the defaults hold. Every setting is\n\
         also an environment variable, which wins over the file: `POINTSMAN__`, the section and the key in capitals, parted by two\n\
         underscores. A secret can be read from a file: give its path under the key with `_file` behind it. Unknown keys are errors, and all\n\
         errors are reported together. `pointsman config show` prints what is in force and where it comes from.\n",
    );
    let mut section = "";
    for setting in &SETTINGS {
        let of = setting.key.rsplit_once('.').map_or("", |(of, _)| of);
        if of != section {
            section = of;
            text.push_str(&format!(
                "\n## `[{section}]`\n\n| key | default | allowed | what |\n| --- | --- | --- | --- |\n"
            ));
        }
        text.push_str(&row(setting));
        text.push('\n');
    }
    text.push_str(PROPERTIES);
    text
}

fn row(setting: &Setting) -> String {
    let key = setting.key.rsplit_once('.').map_or(setting.key, |(_, key)| key);
    let default = match setting.fallback {
        Fallback::Value(value) => format!("`{value}`"),
        Fallback::Derived(how) => how.to_owned(),
        Fallback::Absent => "–".to_owned(),
    };
    let also =
        if setting.kind == Kind::Secret { format!("; or `{key}_file`") } else { String::new() };
    format!(
        "| `{key}` | {default} | {}{also} | {} `{}` |",
        setting.kind.allowed(),
        setting.doc,
        setting.environment()
    )
}

const PROPERTIES: &str = r#"
## `[kafka.properties]`

Every other property of librdkafka, passed through to all clients: TLS, SASL, buffers. A property whose name ends with `.file` is
read from that file, unless librdkafka has a property of that name. In the environment, underscores stand for dots:
`POINTSMAN__KAFKA__PROPERTIES__SASL_MECHANISM` is `sasl.mechanism`. All of them are treated as secrets when printed.
Refused, with the reason, is what exactly-once processing itself must control (`acks`, `isolation.level`, `group.id`, …).

```toml
[kafka.properties]
"security.protocol" = "SASL_SSL"
"sasl.mechanism" = "SCRAM-SHA-512"
"sasl.username" = "pointsman"
"sasl.password.file" = "/run/secrets/kafka-password"
"ssl.ca.location" = "/etc/ssl/certs/ca-certificates.crt"
```
"#;
