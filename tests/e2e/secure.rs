//! TLS, and SASL with a password from a file.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;
use testbed::KafkaCluster;

use crate::site::{ROOMY, Site};

const USER: &str = "pointsman";
/// Known to the brokers, and allowed nothing.
const STRANGER: &str = "stranger";
const PASSWORD: &str = "correct-horse-battery";
const WRONG: &str = "wrong-horse-battery";

/// A certificate of the broker's own, for it and, as PEM, for its clients.
fn certificate(directory: &Path) {
    let keytool = |arguments: &[&str]| {
        let store = ["-keystore", "broker.p12", "-storepass", "keystore", "-alias", "broker"];
        let output = Command::new("keytool")
            .args(arguments)
            .args(store)
            .current_dir(directory)
            .output()
            .expect("keytool is missing: install a JDK >= 17");
        assert!(output.status.success(), "{output:?}");
    };
    let key = ["-genkeypair", "-keyalg", "EC", "-storetype", "PKCS12", "-validity", "2"];
    let name = ["-dname", "CN=broker", "-ext", "SAN=ip:127.0.0.1", "-ext", "bc:c=ca:true"];
    keytool(&[&key[..], &name].concat());
    keytool(&["-exportcert", "-rfc", "-file", "ca.pem"]);
}

/// A broker with a listener of each kind, and the directory of its certificate.
fn broker() -> (KafkaCluster, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    certificate(directory.path());
    let properties = format!(
        "ssl.keystore.type=PKCS12\nssl.keystore.location={}\nssl.keystore.password=keystore\n\
         ssl.key.password=keystore\nsasl.enabled.mechanisms=SCRAM-SHA-512\n\
         listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=\
         org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
         authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
         super.users=User:ANONYMOUS;User:{USER}\n",
        directory.path().join("broker.p12").display()
    );
    let file = directory.path().join("secure.properties");
    std::fs::write(&file, properties).unwrap();
    let cluster = KafkaCluster::start_with(&[
        "--listeners",
        "SSL,SASL_SSL",
        "--properties",
        file.to_str().unwrap(),
        "--user",
        &format!("{USER}:{PASSWORD}"),
        "--user",
        &format!("{STRANGER}:{PASSWORD}"),
    ]);
    (cluster, directory)
}

/// A site on one of the listeners, with `properties` in its file.
fn site(brokers: &str, properties: &str) -> Site {
    Site::on(brokers, &format!("[output]\nformat = \"json\"\n\n[kafka.properties]\n{properties}"))
}

/// Everything that an operator does, with one task.
fn serves(site: &Site) {
    site.make_topics();
    let ran = site.does(&["check"]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    site.apply_fleet(ROOMY);
    let router = site.start_ready();
    let file = site.write("one.jsonl", "{\"task_id\": \"a\", \"input_tokens\": 10}\n");
    let ran = site.does(&["submit", "-f", &file]);
    assert_eq!(ran.code, 0, "{ran:?}");
    let decisions = site.await_records("route-decisions", 1);
    let seen: [&Value; 2] = ["task_id", "outcome"].map(|name| &decisions[0]["value"][name]);
    assert_eq!(seen, [&json!("a"), &json!("routed")]);
    let told =
        [router.log(), router.get("/metrics").unwrap(), router.get("/api/v1/status").unwrap()];
    for text in told.into_iter().chain([site.does(&["config", "show", "-o", "json"]).out]) {
        assert!(!text.contains(PASSWORD), "{text}");
    }
    assert!(router.stop().success());
}

/// What a user without any rights is told.
fn denied(site: &Site) {
    let ran = site.does(&["check", "--timeout", "3"]);
    let expected = "‼ version and limits cannot be verified: ClusterAuthorizationFailed (Broker: \
                    Cluster authorization failed)\n           fix: allow DescribeConfigs on the cluster\n";
    assert!(ran.out.contains(expected), "{}", ran.out);
    let ran = site.does(&["topics", "apply"]);
    assert_eq!(ran.code, 77, "{ran:?}");
    assert!(ran.err.starts_with("error: topics cannot be created: `"), "{ran:?}");
    let ran = site.does(&["run"]);
    let expected =
        format!("error: Kafka at {} denies access: no Describe on topics ", site.brokers);
    assert_eq!(ran.code, 77, "{ran:?}");
    assert!(ran.err.lines().last().unwrap().starts_with(&expected), "{ran:?}");
}

#[test]
#[ignore = "needs Apache Kafka: see ops/test"]
fn brokers_with_tls_and_passwords_are_served_and_a_wrong_password_is_denied() {
    let (cluster, directory) = broker();
    let ca = directory.path().join("ca.pem");
    let ca = format!("\"ssl.ca.location\" = \"{}\"\n", ca.display());

    let tls = format!("\"security.protocol\" = \"SSL\"\n{ca}");
    serves(&site(&cluster.listener("SSL"), &tls));

    let secret = directory.path().join("password");
    let sasl = format!(
        "\"security.protocol\" = \"SASL_SSL\"\n{ca}\"sasl.mechanism\" = \"SCRAM-SHA-512\"\n\
         \"sasl.username\" = \"{USER}\"\n\"sasl.password.file\" = \"{}\"\n",
        secret.display()
    );
    // As editors leave it, with the end of a line.
    std::fs::write(&secret, format!("{PASSWORD}\n")).unwrap();
    let address = cluster.listener("SASL_SSL");
    serves(&site(&address, &sasl));

    let stranger = site(&address, &sasl.replace(USER, STRANGER));
    denied(&stranger);

    std::fs::write(&secret, WRONG).unwrap();
    let site = site(&address, &sasl);
    for verb in [&["check"][..], &["topics", "plan"]] {
        let ran = site.does(&[&["--timeout", "3"], verb].concat());
        assert_eq!(ran.code, 77, "{verb:?}: {ran:?}");
        assert!(format!("{}{}", ran.out, ran.err).contains("uthentication failed"), "{ran:?}");
        assert!(!ran.out.contains(WRONG) && !ran.err.contains(WRONG), "{ran:?}");
    }
    let mut router = site.start();
    let metrics = testbed::eventually("its metrics, or its end", Duration::from_secs(30), || {
        router.get("/metrics").or_else(|| router.has_ended().then(String::new))
    });
    let log = site.path("log");
    let status = router.await_end(Duration::from_secs(30));
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(status.code(), Some(77), "{log}");
    let expected = format!("error: Kafka at {address} denies access: ");
    assert!(log.lines().last().unwrap().starts_with(&expected), "{log}");
    assert!(!log.contains(WRONG) && !metrics.contains(WRONG), "{log}");
}
