//! OpenMetrics text → the older Prometheus text format, which `promtool` and scrapers without
//! content negotiation read: a counter's metadata carries the `_total` there, and neither `UNIT`
//! nor `EOF` exists.

pub fn classic(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut lines = open_metrics.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "# EOF" || line.starts_with("# UNIT ") {
            continue;
        }
        if let Some(help) = line.strip_prefix("# HELP ") {
            let counter = lines
                .peek()
                .is_some_and(|next| next.starts_with("# TYPE ") && next.ends_with(" counter"));
            if let (true, Some((name, words))) = (counter, help.split_once(' ')) {
                text.push_str(&format!(
                    "# HELP {name}_total {words}\n# TYPE {name}_total counter\n"
                ));
                lines.next();
                continue;
            }
        }
        text.push_str(line);
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::classic;

    #[test]
    fn only_counters_are_renamed() {
        let open = "# HELP a_b Words of a.\n# TYPE a_b counter\na_b_total{c=\"d\"} 1\n\
                    # HELP e Words.\n# TYPE e gauge\n# UNIT e seconds\ne 2\n# EOF\n";
        assert_eq!(
            classic(open),
            "# HELP a_b_total Words of a.\n# TYPE a_b_total counter\na_b_total{c=\"d\"} 1\n\
             # HELP e Words.\n# TYPE e gauge\ne 2\n"
        );
    }
}
