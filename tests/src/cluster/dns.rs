//! Names: those of Services, for all pods, and what the image `coredns` stands for, a server that answers each question with
//! the asker's own address. The suites up to 1.6 have one as a backend, and take any answer for their question.

use super::network::GATEWAY;
use super::table::Table;
use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// Header of a message: id, flags, four counts.
const HEADER: usize = 12;
/// The longest message without an extension.
const LONGEST: usize = 512;
/// The code for a name that does not exist (RFC 1035 §4.1.1).
const NO_SUCH_NAME: u8 = 3;
/// The domain of Services.
const SERVICES: &str = "svc.cluster.local";

/// What a pod's `/etc/resolv.conf` holds (Kubernetes: DNS for Services and Pods, `ClusterFirst`).
pub(super) fn resolver(namespace: &str) -> String {
    format!("nameserver {GATEWAY}\nsearch {namespace}.{SERVICES} {SERVICES} cluster.local\noptions ndots:5\n")
}

/// The answer to a query with one question; none for what is no such query. `find` has the address of a name in lower case;
/// types other than A have no records.
fn answer(query: &[u8], find: impl FnOnce(&str) -> Option<Ipv4Addr>) -> Option<Vec<u8>> {
    let header = query.get(..HEADER)?;
    let (flags, questions) = (header.get(2)?, header.get(4..6)?);
    if flags & 0x80 != 0 || questions != [0, 1] {
        return None;
    }
    // The name: labels, each after its length, up to an empty one.
    let (mut end, mut labels) = (HEADER, Vec::new());
    while *query.get(end)? != 0 {
        let length = usize::from(*query.get(end)?);
        labels.push(String::from_utf8_lossy(query.get(end + 1..end + 1 + length)?).to_ascii_lowercase());
        end += length + 1;
    }
    // Behind it type and class.
    let question = query.get(HEADER..end + 5)?;
    let found = find(&labels.join("."));
    let is_address = query.get(end + 1..end + 3)? == [0, 1];
    let record = found.filter(|_| is_address);
    let code = if found.is_none() { NO_SUCH_NAME } else { 0 };
    let mut answer = header.get(..2)?.to_vec();
    // An answer, with authority, recursion as wanted; one question, at most one record, nothing else.
    answer.extend([0x84 | (flags & 0x01), code, 0, 1, 0, u8::from(record.is_some()), 0, 0, 0, 0]);
    answer.extend(question);
    if let Some(address) = record {
        // The name of the question; A, IN; no time to live; four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

/// The address of the Service that a name is of: `NAME.NAMESPACE.svc.cluster.local`.
fn service(name: &str, services: &Table<Service>) -> Option<Ipv4Addr> {
    let (service, namespace) = name.strip_suffix(SERVICES)?.strip_suffix('.')?.split_once('.')?;
    let found = services.get(namespace, service)?;
    found.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()
}

/// Answers pods for the names of Services.
pub(super) async fn serve_services(client: &Client) -> Result<()> {
    let services = Table::watch(client);
    let socket = tokio::net::UdpSocket::bind((GATEWAY, 53)).await.context("port 53 for names of Services")?;
    tokio::spawn(async move {
        let mut buffer = [0_u8; LONGEST];
        loop {
            let Ok((length, asker)) = socket.recv_from(&mut buffer).await else { continue };
            let query = buffer.get(..length);
            if let Some(answer) = query.and_then(|query| answer(query, |name| service(name, &services))) {
                // An asker that is gone costs its own answer only.
                let _ = socket.send_to(&answer, asker).await;
            }
        }
    });
    Ok(())
}

/// Serves the image's port 53 for ever.
pub fn serve() -> Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)).context("port 53")?;
    let mut buffer = [0_u8; LONGEST];
    loop {
        let (length, asker) = socket.recv_from(&mut buffer)?;
        let IpAddr::V4(address) = asker.ip() else { continue };
        if let Some(answer) = buffer.get(..length).and_then(|query| answer(query, |_| Some(address))) {
            // An asker that is gone costs its own answer only.
            let _ = socket.send_to(&answer, asker);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_answered_with_the_askers_address() {
        let query = *b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03foo\x03bar\x00\x00\x01\x00\x01";
        let address = Ipv4Addr::new(10, 0, 0, 7);
        let answered = answer(&query, |_| Some(address)).unwrap();
        let wanted = b"\x12\x34\x85\x00\x00\x01\x00\x01\x00\x00\x00\x00\x03foo\x03bar\x00\x00\x01\x00\x01\
            \xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x00\x00\x04\x0a\x00\x00\x07";
        assert_eq!(answered, wanted);
        for length in 0..query.len() {
            assert_eq!(answer(&query[..length], |_| Some(address)), None, "{length}");
        }
        assert_eq!(answer(&answered, |_| Some(address)), None);
    }
    #[test]
    fn a_name_without_an_address_does_not_exist_and_one_without_another_type_is_empty() {
        let query = |kind: u8| {
            let mut query = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03Foo\x00\x00".to_vec();
            query.extend([kind, 0, 1]);
            query
        };
        let missing = answer(&query(1), |name| (name != "foo").then_some(Ipv4Addr::LOCALHOST)).unwrap();
        assert_eq!((missing[3], missing[7]), (NO_SUCH_NAME, 0));
        let six = answer(&query(28), |_| Some(Ipv4Addr::LOCALHOST)).unwrap();
        assert_eq!((six[3], six[7]), (0, 0));
    }
}
