//! Whether a text has the form of what it is to name.

pub fn is_topic_name(text: &str) -> bool {
    (1..=249).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

pub fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(|letter: char| letter.is_whitespace() || letter == '/')
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    })
}

pub fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| {
        let authority = rest.split('/').next().unwrap_or_default();
        let host = authority.split(':').next().unwrap_or_default();
        let port = authority.rsplit_once(':').map(|(_, port)| port);
        !host.is_empty()
            && !authority.contains('@')
            && port.is_none_or(|port| port.parse::<u16>().is_ok())
            && !rest.contains(|letter: char| letter.is_whitespace() || letter.is_control())
    })
}
