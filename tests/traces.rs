//! The spans of a real node, as a collector receives them: OTLP over HTTP, read without the code that writes it.
#![cfg(all(target_os = "linux", feature = "otlp"))]

mod support;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;

use support::PATIENCE;
use support::program::fencron;

/// A job that fails in its first attempt and writes down the context of each.
const JOBS: &str = "
version: 1
namespace: shop
jobs:
  traced:
    schedule: '@at 2099-01-01T00:00:00Z'
    shell: 'echo $TRACEPARENT >> contexts; test $FENCRON_ATTEMPT = 2'
    retry: {attempts: 2, backoff: {initial: 10ms}}
";

/// A collector: what it receives, head and body. It takes the first request for no answer but 503.
fn collector() -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (received, requests) = mpsc::channel();
    thread::spawn(move || {
        for (nth, stream) in listener.incoming().enumerate() {
            let status = if nth == 0 { "503 Service Unavailable" } else { "200 OK" };
            let Some(request) = receive(stream.unwrap(), status) else { continue };
            if received.send(request).is_err() {
                return;
            }
        }
    });
    (address, requests)
}

fn receive(stream: TcpStream, status: &str) -> Option<(String, Vec<u8>)> {
    let mut reader = BufReader::new(&stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let head = head.to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?.parse().ok()?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    (&stream).write_all(answer.as_bytes()).ok()?;
    Some((head, body))
}

/// A message of protocol buffers: the fields by their numbers, in their order.
struct Fields(Vec<(u64, Value)>);

#[derive(Clone)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Fields {
    fn read(mut bytes: &[u8]) -> Fields {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = varint(&mut bytes);
            let value = match key & 7 {
                0 => Value::Number(varint(&mut bytes)),
                1 => Value::Number(u64::from_le_bytes(take(&mut bytes, 8).try_into().unwrap())),
                2 => {
                    let length = usize::try_from(varint(&mut bytes)).unwrap();
                    Value::Bytes(take(&mut bytes, length).to_vec())
                }
                other => panic!("no field of OTLP that is sent has the wire type {other}"),
            };
            fields.push((key >> 3, value));
        }
        Fields(fields)
    }

    fn all(&self, number: u64) -> Vec<&[u8]> {
        let of_number = self.0.iter().filter(|(found, _)| *found == number);
        let bytes = of_number.map(|(_, value)| match value {
            Value::Bytes(bytes) => bytes.as_slice(),
            Value::Number(number) => panic!("{number} where bytes should be"),
        });
        bytes.collect()
    }

    fn inside(&self, number: u64) -> Vec<Fields> {
        self.all(number).into_iter().map(Fields::read).collect()
    }

    fn number(&self, number: u64) -> u64 {
        match self.0.iter().find(|(found, _)| *found == number) {
            Some((_, Value::Number(value))) => *value,
            Some((_, Value::Bytes(_))) => panic!("bytes where a number should be"),
            None => 0,
        }
    }

    fn text(&self, number: u64) -> String {
        self.all(number).first().map(|bytes| String::from_utf8(bytes.to_vec()).unwrap()).unwrap_or_default()
    }

    /// The attributes in this field, numbers as text.
    fn attributes(&self, number: u64) -> BTreeMap<String, String> {
        let read = |pair: Fields| {
            let value = &pair.inside(2)[0];
            let value = if value.all_are_numbers() { value.number(3).to_string() } else { value.text(1) };
            (pair.text(1), value)
        };
        self.inside(number).into_iter().map(read).collect()
    }

    fn all_are_numbers(&self) -> bool {
        self.0.iter().all(|(_, value)| matches!(value, Value::Number(_)))
    }
}

fn varint(bytes: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = take(bytes, 1)[0];
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
    }
    value
}

fn take<'b>(bytes: &mut &'b [u8], length: usize) -> &'b [u8] {
    let (taken, rest) = bytes.split_at(length);
    *bytes = rest;
    taken
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Node(Child);

impl Drop for Node {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn wait(what: &str, until: impl Fn() -> bool) {
    for _ in 0..PATIENCE.as_millis() / 50 {
        if until() {
            return;
        }
        thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{what}: not within {PATIENCE:?}");
}

#[test]
fn attempts_of_a_run_are_spans_of_one_trace_and_commands_know_theirs() {
    let (address, requests) = collector();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("jobs.yaml"), JOBS).unwrap();
    let log = File::create(dir.path().join("log")).unwrap();
    let mut command = fencron(dir.path());
    command.args(["run", "--node", "a", "--ttl", "2s"]).stdout(Stdio::null()).stderr(log);
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"));
    command.env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=s3cret%20key").env("OTEL_RESOURCE_ATTRIBUTES", "zone=eu");
    let _node = Node(command.spawn().unwrap());
    wait("the run is asked for", || fencron(dir.path()).args(["trigger", "traced"]).output().unwrap().status.success());

    let mut spans: Vec<Fields> = Vec::new();
    let mut refused = 0;
    while spans.len() < 2 {
        let (head, body) = requests.recv_timeout(PATIENCE).expect("the spans come");
        assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
        assert!(head.contains("content-type: application/x-protobuf") && head.contains("x-key: s3cret key"), "{head}");
        if refused == 0 {
            refused = body.len();
            continue;
        }
        for resource in Fields::read(&body).inside(1) {
            let described = resource.inside(1)[0].attributes(1);
            assert_eq!((described["service.name"].as_str(), described["zone"].as_str()), ("fencron", "eu"));
            spans.extend(resource.inside(2).iter().flat_map(|scope| scope.inside(2)));
        }
    }
    let contexts = std::fs::read_to_string(dir.path().join("contexts")).unwrap();
    let shown: Vec<String> =
        spans.iter().map(|span| format!("00-{}-{}-01", hex(span.all(1)[0]), hex(span.all(2)[0]))).collect();
    assert_eq!(shown, contexts.lines().collect::<Vec<_>>(), "the second time after the first was refused");
    assert_eq!(spans[0].all(1), spans[1].all(1), "one trace");

    for (span, (attempt, verdict, code, exit)) in
        spans.iter().zip([("1", "failed", 2, "1"), ("2", "succeeded", 1, "0")])
    {
        assert_eq!((span.text(5), span.number(6)), ("fencron.run".to_owned(), 1));
        assert!(span.number(7) > 0 && span.number(7) <= span.number(8));
        let says = span.attributes(9);
        for (name, value) in [
            ("fencron.namespace", "shop"),
            ("fencron.job_name", "traced"),
            ("fencron.node", "a"),
            ("fencron.attempt", attempt),
            ("fencron.verdict", verdict),
            ("process.exit.code", exit),
            ("faas.cron", "@at 2099-01-01T00:00:00Z"),
            ("faas.trigger", "other"),
        ] {
            assert_eq!(says.get(name).map(String::as_str), Some(value), "{name}: {says:?}");
        }
        assert!(says["fencron.run_id"].starts_with("traced@") && says["fencron.fence"].parse::<u64>().unwrap() > 0);
        assert_eq!(span.inside(15)[0].number(3), code);
    }
    assert!(!std::fs::read_to_string(dir.path().join("log")).unwrap().contains("s3cret"));
}

#[test]
fn a_setting_that_cannot_be_used_keeps_a_node_from_starting_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("jobs.yaml"), JOBS).unwrap();
    let mut command = fencron(dir.path());
    command.arg("run").env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
    let ran = command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc").output().unwrap();
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(2), "{said}");
    assert!(said.contains("OTEL_EXPORTER_OTLP_PROTOCOL") && said.contains("4318"), "{said}");
}
