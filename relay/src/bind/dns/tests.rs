use super::*;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use std::sync::Mutex;
use tokio::net::UdpSocket;

fn addresses(texts: &[&str], ttl: u64) -> Answer {
    let addresses = texts.iter().map(|text| text.parse().unwrap()).collect();
    Answer::Addresses { addresses, ttl: Duration::from_secs(ttl) }
}

fn denied() -> Answer {
    Answer::Denied { ttl: Duration::from_secs(5) }
}

fn failed() -> Answer {
    Answer::Failed("SERVFAIL".to_owned())
}

fn key(record: Record) -> (String, Record) {
    ("db.example".to_owned(), record)
}

fn book() -> Book {
    let mut book = Book::new(Jitter::seeded(1));
    book.want(&["db.example".to_owned()].into());
    book
}

fn ips(book: &Book) -> Option<Vec<String>> {
    let found = book.resolved().get("db.example", 80)?;
    Some(found.iter().map(ToString::to_string).collect())
}

#[test]
fn a_record_is_asked_for_again_when_its_time_is_over_and_within_bounds() {
    let now = Instant::now();
    for (ttl, least, most) in [(60, 40, 60), (0, 2, 2), (1_000_000, 200, 300)] {
        let mut book = book();
        assert_eq!(book.due(now).len(), 2, "both kinds are asked for at once");
        book.take(&key(Record::A), addresses(&["10.0.0.1"], ttl), now);
        assert_eq!(book.due(now), [key(Record::Aaaa)]);
        let wait = book.known[&key(Record::A)].due.unwrap() - now;
        let within = Duration::from_secs(least)..=Duration::from_secs(most);
        assert!(within.contains(&wait), "ttl {ttl}: {wait:?}");
    }
}

#[test]
fn a_server_that_fails_takes_nothing_away_and_is_asked_less_and_less() {
    let (mut book, mut now) = (book(), Instant::now());
    book.take(&key(Record::A), addresses(&["10.0.0.1", "0.0.0.0"], 30), now);
    book.take(&key(Record::Aaaa), addresses(&["2001:db8::1"], 30), now);
    let both = Some(vec!["10.0.0.1:80".to_owned(), "[2001:db8::1]:80".to_owned()]);
    assert_eq!(ips(&book), both, "an address that nothing can have is left out");
    for _ in 0..20 {
        book.take(&key(Record::A), failed(), now);
        let wait = book.known[&key(Record::A)].due.unwrap() - now;
        assert!(wait >= Duration::from_secs(1) && wait <= BACK_OFF.1, "{wait:?}");
        now += wait;
        assert_eq!(ips(&book), both);
    }
    assert_eq!(book.resolved().troubled["db.example"].state, "failing");
    book.take(&key(Record::A), addresses(&["10.0.0.2"], 30), now);
    assert!(book.resolved().troubled.is_empty());
}

#[test]
fn a_name_that_is_denied_three_times_has_no_address_and_a_failure_in_between_does_not_count() {
    let (mut book, now) = (book(), Instant::now());
    book.take(&key(Record::Aaaa), denied(), now);
    assert_eq!(ips(&book), Some(vec![]), "with nothing to lose a denial is believed");
    book.take(&key(Record::A), addresses(&["10.0.0.1"], 30), now);
    assert!(book.resolved().troubled.is_empty(), "a name of one kind is no trouble");
    for answer in [denied(), failed(), denied()] {
        book.take(&key(Record::A), answer, now);
        assert_eq!(ips(&book).unwrap(), ["10.0.0.1:80"]);
    }
    book.take(&key(Record::A), denied(), now);
    assert_eq!(ips(&book), Some(vec![]));
    assert_eq!(book.resolved().troubled["db.example"].state, "denied");
    book.take(&key(Record::A), addresses(&["10.0.0.9"], 30), now);
    assert_eq!(ips(&book).unwrap(), ["10.0.0.9:80"]);
}

#[test]
fn names_nobody_asks_for_are_forgotten_and_unknown_ones_are_unknown() {
    let (mut book, now) = (book(), Instant::now());
    book.take(&key(Record::A), failed(), now);
    assert_eq!(ips(&book), None, "a failure tells nothing");
    book.want(&BTreeSet::new());
    assert!(book.known.is_empty() && book.next(now).is_none());
    assert_eq!(book.take(&key(Record::A), addresses(&["10.0.0.1"], 1), now), "unwanted");
}

/// A name server of a few lines: answers with what it is told to at the moment.
#[derive(Clone, Copy)]
enum Script {
    Ttl(u32, [u8; 4]),
    Code(u8),
}

async fn server(script: Arc<Mutex<Script>>) -> (u16, Arc<Mutex<u32>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            // The header, and one question: labels, a zero, type and class.
            let end = 12 + buffer[12..length].iter().position(|byte| *byte == 0).unwrap() + 5;
            let is_a = buffer[end - 4..end - 2] == [0, 1];
            let script = *script.lock().unwrap();
            let (code, answer) = match script {
                Script::Ttl(ttl, address) if is_a => (0, Some((ttl, address))),
                Script::Ttl(..) => (0, None),
                Script::Code(code) => (code, None),
            };
            if is_a {
                *count.lock().unwrap() += 1;
            }
            let mut out = buffer[..2].to_vec();
            out.extend([0x84, 0x80 | code, 0, 1, 0, u8::from(answer.is_some()), 0, 0, 0, 0]);
            out.extend(&buffer[12..end]);
            if let Some((ttl, address)) = answer {
                out.extend([0xc0, 12, 0, 1, 0, 1]);
                out.extend(ttl.to_be_bytes());
                out.extend([0, 4]);
                out.extend(address);
            }
            socket.send_to(&out, from).await.unwrap();
        }
    });
    (port, asked)
}

fn asking(port: u16) -> Arc<dyn Ask> {
    let mut server = NameServerConfig::udp("127.0.0.1".parse().unwrap());
    let mut connection = ConnectionConfig::udp();
    connection.port = port;
    server.connections = vec![connection];
    let config = ResolverConfig::from_name_servers(vec![server]);
    Arc::new(System::with(config).unwrap())
}

#[tokio::test]
async fn a_real_server_is_understood_addresses_ttl_denial_and_failure() {
    let script = Arc::new(Mutex::new(Script::Ttl(17, [10, 0, 0, 7])));
    let (port, _) = server(Arc::clone(&script)).await;
    let asker = asking(port);
    assert_eq!(asker.ask("db.example", Record::A).await, addresses(&["10.0.0.7"], 17));
    assert!(matches!(asker.ask("db.example", Record::Aaaa).await, Answer::Denied { .. }));
    // NXDOMAIN is a denial; SERVFAIL and REFUSED are failures.
    *script.lock().unwrap() = Script::Code(3);
    assert!(matches!(asker.ask("db.example", Record::A).await, Answer::Denied { .. }));
    for code in [2, 5] {
        *script.lock().unwrap() = Script::Code(code);
        assert!(matches!(asker.ask("db.example", Record::A).await, Answer::Failed(_)), "{code}");
    }
}

#[tokio::test]
async fn names_are_resolved_again_when_their_records_run_out() {
    let script = Arc::new(Mutex::new(Script::Ttl(1, [10, 0, 0, 1])));
    let (port, asked) = server(Arc::clone(&script)).await;
    let (names, wanted) = watch::channel(BTreeSet::from(["db.example".to_owned()]));
    let (out, mut resolved) = watch::channel(Resolved::default());
    let outlet = Outlet { fleet: "a/b".into(), metrics: Arc::default(), out };
    let stop = CancellationToken::new();
    let task = tokio::spawn(resolve(wanted, asking(port), outlet, Jitter::seeded(1), stop.clone()));
    let first = |found: &Resolved| found.get("db.example", 1).is_some_and(|found| found.len() == 1);
    resolved.wait_for(first).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), 1);
    *script.lock().unwrap() = Script::Ttl(1, [10, 0, 0, 2]);
    let moved = |found: &Resolved| found.get("db.example", 1) == Some(vec!["10.0.0.2:1".parse().unwrap()]);
    resolved.wait_for(moved).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), 2, "once more, when the time was over");
    drop(names);
    task.await.unwrap();
}
