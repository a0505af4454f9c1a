//! A publisher to test with.

use moorgate_snapshot::channel::{Candidate, Step};
use moorgate_snapshot::writer::{commit_entry, write_head, write_snapshot};
use moorgate_snapshot::{
    Action, Binding, BindingKind, BindingSource, Channel, ChannelState, Digest, EndpointSource, Entry,
    Family, FleetName, FleetStore, KeyPair, Pin, Position, Record, Reference, Release, Resource, Signer,
    Snapshot, Store,
};
use std::sync::Arc;
use time::OffsetDateTime;

pub(crate) struct Publisher {
    pub(crate) store: Store,
    pub(crate) fleet: FleetName,
    key: KeyPair,
    previous: Option<Position>,
    state: ChannelState,
    skip: u64,
    /// When the entries run out that are written from now on.
    pub(crate) expires: Option<OffsetDateTime>,
}

impl Publisher {
    pub(crate) fn new(store: Store) -> Self {
        let (key, _) = KeyPair::generate(&[7; 32]).unwrap();
        let fleet = FleetName::gateway("shop", "edge");
        Self { store, fleet, key, previous: None, state: ChannelState::default(), skip: 0, expires: None }
    }

    pub(crate) fn trust(&self) -> String {
        self.key.public().to_pem()
    }

    pub(crate) fn part(&self) -> FleetStore {
        self.store.fleet(&self.fleet)
    }

    pub(crate) async fn publish(&mut self, records: Vec<Record>) -> Digest {
        let snapshot = Snapshot::build(records).unwrap();
        write_snapshot(&self.part(), &snapshot, &|_| false).await.unwrap();
        let release = self.release(snapshot.id());
        self.state.previous_good = self.state.target.take();
        self.state.target = Some(release);
        self.commit(Action::Publish).await;
        snapshot.id()
    }

    /// Releases a snapshot without writing it.
    pub(crate) async fn announce(&mut self, snapshot: Digest) {
        let release = self.release(snapshot);
        self.state.previous_good = self.state.target.replace(release);
        self.commit(Action::Publish).await;
    }

    /// Leaves so many slots of the log to whatever lies in them.
    pub(crate) fn step_over(&mut self, slots: u64) {
        self.skip += slots;
    }

    /// A candidate that goes out in these steps, the first one done.
    pub(crate) async fn candidate(&mut self, records: Vec<Record>, steps: Vec<Step>) -> Digest {
        let snapshot = Snapshot::build(records).unwrap();
        write_snapshot(&self.part(), &snapshot, &|_| false).await.unwrap();
        let release = self.release(snapshot.id());
        self.state.candidate = Some(Candidate { release, step: 1, steps, since: None });
        self.commit(Action::Publish).await;
        snapshot.id()
    }

    /// The candidate is the target of all.
    pub(crate) async fn finish(&mut self) {
        let candidate = self.state.candidate.take().unwrap();
        self.state.previous_good = self.state.target.replace(candidate.release);
        self.commit(Action::Step).await;
    }

    /// The next step of the candidate's wave.
    pub(crate) async fn step(&mut self) {
        self.state.candidate.as_mut().unwrap().step += 1;
        self.commit(Action::Step).await;
    }

    pub(crate) async fn pin(&mut self, snapshot: Digest) {
        let release = self.release(snapshot);
        self.state.pin = Some(Pin { release, reason: "test".into(), by: "test".into(), expires: None });
        self.commit(Action::Pin).await;
    }

    pub(crate) async fn retire(&mut self) {
        self.state.retired = true;
        self.commit(Action::Retire).await;
    }

    fn release(&self, snapshot: Digest) -> Release {
        let known = self.state.releases().find(|release| release.snapshot == snapshot).cloned();
        known.unwrap_or(Release::new(snapshot, self.sequence(), OffsetDateTime::UNIX_EPOCH))
    }

    fn sequence(&self) -> u64 {
        self.previous.map_or(1, |previous| previous.sequence + 1) + self.skip
    }

    async fn commit(&mut self, action: Action) {
        let entry = Entry {
            format: 1,
            features_required: Vec::new(),
            fleet: self.fleet.clone(),
            channel: Channel::stable(),
            sequence: self.sequence(),
            previous: self.previous,
            action,
            state: self.state.clone(),
            promoted: None,
            author: "test".into(),
            run: String::new(),
            approver: String::new(),
            reason: String::new(),
            time: OffsetDateTime::UNIX_EPOCH,
            expires: self.expires,
            nonce: format!("nonce-{}", self.sequence()),
        };
        let signers: [&dyn Signer; 1] = [&self.key];
        let envelope = entry.sign(&signers).unwrap();
        assert!(commit_entry(&self.part(), &entry, &envelope).await.unwrap(), "the slot is taken");
        self.previous = Some(Position { sequence: entry.sequence, digest: Digest::of(&envelope.payload) });
        self.skip = 0;
        write_head(&self.part(), &entry, envelope).await.unwrap();
    }
}

/// A resource; `needs` is the name of its endpoints.
pub(crate) fn resource(type_url: &str, name: &str, content: &str, needs: Option<&str>) -> Record {
    let reference = |name: &str| Reference { kind: BindingKind::Endpoints, name: name.into() };
    Record::Resource(Resource {
        type_url: type_url.into(),
        name: name.into(),
        part: "".into(),
        bytes: content.to_owned().into_bytes().into(),
        refs: needs.map(reference).into_iter().collect(),
    })
}

/// Endpoints of `shop/cart`, port `http`.
pub(crate) fn endpoints(name: &str) -> Record {
    endpoints_of(name, "cart")
}

/// Endpoints of a Service of `shop`, port `http`.
pub(crate) fn endpoints_of(name: &str, service: &str) -> Record {
    let source = EndpointSource {
        namespace: "shop".into(),
        service: service.into(),
        port_name: "http".into(),
        port: 8080,
        family: Family::Any,
        weight: 1,
        hostname: "".into(),
        addresses: Vec::new(),
    };
    let source = BindingSource::Endpoints(vec![source]);
    Record::Binding(Binding { kind: BindingKind::Endpoints, name: name.into(), source })
}

/// Endpoints that are what a name resolves to.
pub(crate) fn endpoints_by_name(name: &str, hostname: &str) -> Record {
    let Record::Binding(mut binding) = endpoints(name) else { unreachable!("a binding") };
    if let BindingSource::Endpoints(sources) = &mut binding.source {
        for source in sources {
            (source.namespace, source.service) = ("".into(), "".into());
            (source.port_name, source.hostname) = ("".into(), hostname.into());
        }
    }
    Record::Binding(binding)
}

/// The certificate in the Secret `shop/tls`.
pub(crate) fn secret(name: &str) -> Record {
    let source =
        BindingSource::Object { kind: Arc::from("Secret"), namespace: "shop".into(), name: "tls".into() };
    Record::Binding(Binding { kind: BindingKind::Secret, name: name.into(), source })
}
