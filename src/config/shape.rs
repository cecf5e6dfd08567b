//! Second stage: a table becomes typed values, section by section. Each function below is one
//! section and says which fields it has. A value that is missing here although it has a default
//! was written wrongly; that has been reported, and checks that need it step aside.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tidelock_core::id::Name;
use tidelock_core::spec::Address;

use super::initial::{self, InitialDraft};
use super::layers::{Found, Layers, Located, Section};
use super::limits::{self, Limits, Timeouts};
use super::problem::Source;
use super::{AccessLog, ClientAuth, Drain, ListenAddress, ProxyProtocol};

pub(super) struct Draft {
    pub(super) node: NodeDraft,
    pub(super) fleet: Option<FleetDraft>,
    pub(super) admin: AdminDraft,
    pub(super) listeners: Vec<ListenerDraft>,
    pub(super) endpoint_tls: Option<CertificateDraft>,
    pub(super) access_log: AccessLog,
    pub(super) trusted: Vec<IpNet>,
    pub(super) drain: Drain,
    pub(super) drain_source: Source,
    pub(super) limits: Limits,
    pub(super) limits_source: Source,
    pub(super) timeouts: Timeouts,
    pub(super) initial: InitialDraft,
}

pub(super) struct NodeDraft {
    pub(super) name: Option<Located<Name>>,
    pub(super) data_dir: Option<Located<PathBuf>>,
    pub(super) workers: usize,
}

pub(super) struct FleetDraft {
    pub(super) source: Source,
    pub(super) listen: Option<Located<SocketAddr>>,
    /// None: left out or written wrongly, which `advertise_given` tells.
    pub(super) advertise: Option<Located<Address>>,
    pub(super) advertise_given: bool,
    pub(super) founders: Option<Located<Vec<Located<Address>>>>,
    /// Instead of founders.
    pub(super) join: Option<Located<Vec<Located<Address>>>>,
    pub(super) join_token_file: Option<Located<PathBuf>>,
    pub(super) secret_file: Option<Located<PathBuf>>,
    /// The one before.
    pub(super) previous_secret_file: Option<Located<PathBuf>>,
    /// Instead of a secret.
    pub(super) tls: Option<PeerTlsDraft>,
}

pub(super) struct PeerTlsDraft {
    pub(super) source: Source,
    pub(super) authorities: Option<Located<PathBuf>>,
    pub(super) own: CertificateDraft,
    pub(super) name: Option<Located<String>>,
}

pub(super) struct AdminDraft {
    pub(super) listen: Option<Located<SocketAddr>>,
    pub(super) advertise: Option<Located<String>>,
    pub(super) token_file: Option<Located<PathBuf>>,
    pub(super) token_file_given: bool,
}

pub(super) struct ListenerDraft {
    /// `listeners[0]`.
    pub(super) path: String,
    pub(super) address: Option<Located<ListenAddress>>,
    pub(super) tls: Option<TlsDraft>,
    pub(super) proxy_protocol: ProxyProtocol,
}

pub(super) struct TlsDraft {
    /// The first, and those of `additional`.
    pub(super) certificates: Vec<CertificateDraft>,
    pub(super) client_ca: Option<Located<PathBuf>>,
    pub(super) client_crl: Option<Located<PathBuf>>,
    pub(super) client_auth: Option<Located<ClientAuth>>,
}

pub(super) struct CertificateDraft {
    /// `listeners[0].tls`, `endpoint_tls`.
    pub(super) path: String,
    pub(super) certificate: Option<Located<PathBuf>>,
    pub(super) key: Option<Located<PathBuf>>,
}

pub(super) fn shape(layers: &Layers<'_>) -> Draft {
    let root = layers.root();
    let drain = root.section("drain");
    let limits = root.section("limits");
    let timeouts = root.section("timeouts");
    let draft = Draft {
        node: node(root.section("node"), layers),
        fleet: fleet(root.section("fleet")),
        admin: admin(root.section("admin")),
        listeners: listeners(&root),
        endpoint_tls: endpoint_tls(root.section("endpoint_tls")),
        access_log: access_log(root.section("access_log")),
        trusted: trusted(root.section("forwarded")),
        drain_source: drain.source.clone(),
        drain: Drain {
            settle: drain.millis("settle_ms", 0..=3_600_000, 5_000),
            deadline: drain.millis("deadline_ms", 0..=86_400_000, 30_000),
        },
        limits_source: limits.source.clone(),
        limits: limits::limits(&limits),
        timeouts: limits::timeouts(&timeouts),
        initial: initial::shape(root.section("initial")),
    };
    [drain, limits, timeouts, root].into_iter().for_each(Section::finish);
    draft
}

fn node(section: Section<'_>, layers: &Layers<'_>) -> NodeDraft {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let name = match section.scalar::<Name>("name") {
        Found::Absent => {
            let named = layers.host_name().and_then(|host| host.parse().ok());
            if named.is_none() {
                section.report(&section.source, "name", "is missing, and the host's name is not one that can be used");
            }
            named.map(|value| Located { value, source: Source::Default })
        }
        found => found.value(),
    };
    let node = NodeDraft {
        name,
        data_dir: section.scalar("data_dir").or("/var/lib/tidelock".into()),
        workers: section.number("workers", 1..=1_024, cores as u64) as usize,
    };
    section.finish();
    node
}

fn fleet(section: Section<'_>) -> Option<FleetDraft> {
    let keys = ["listen", "advertise", "founders", "join", "join_token_file", "secret_file", "previous_secret_file"];
    let tls = section.section_if_any("tls", &["authorities", "certificate", "key", "name"]);
    if tls.is_none() && !section.is_present(&keys) {
        return None;
    }
    let advertise = section.scalar("advertise");
    let founders = section.list("founders");
    let join = section.list("join");
    let secret_file = section.scalar("secret_file");
    let tls = tls.map(peer_tls);
    let fleet = FleetDraft {
        source: section.source.clone(),
        listen: section.scalar("listen").or(SocketAddr::from(([0, 0, 0, 0], 7946))),
        advertise_given: !matches!(advertise, Found::Absent),
        advertise: advertise.value(),
        founders: match join {
            Found::Absent => section.required("founders", founders),
            _ => founders.value(),
        },
        join: join.value(),
        join_token_file: section.scalar("join_token_file").value(),
        secret_file: match tls {
            None => section.required("secret_file", secret_file),
            Some(_) => secret_file.value(),
        },
        previous_secret_file: section.scalar("previous_secret_file").value(),
        tls,
    };
    section.finish();
    Some(fleet)
}

fn peer_tls(section: Section<'_>) -> PeerTlsDraft {
    let authorities = section.scalar("authorities");
    let draft = PeerTlsDraft {
        source: section.source.clone(),
        authorities: section.required("authorities", authorities),
        own: certificate(&section),
        name: section.scalar("name").value(),
    };
    section.finish();
    draft
}

fn admin(section: Section<'_>) -> AdminDraft {
    let token_file = section.scalar("token_file");
    let admin = AdminDraft {
        listen: section.scalar("listen").or(SocketAddr::from(([127, 0, 0, 1], 9900))),
        advertise: section.scalar("advertise").value(),
        token_file_given: !matches!(token_file, Found::Absent),
        token_file: token_file.value(),
    };
    section.finish();
    admin
}

fn listeners(root: &Section<'_>) -> Vec<ListenerDraft> {
    let Some(sections) = root.sections("listeners") else {
        let everywhere = ListenAddress::Ip(SocketAddr::from(([0, 0, 0, 0], 8080)));
        let everywhere = Located { value: everywhere, source: Source::Default };
        let (path, proxy_protocol) = ("listeners".into(), ProxyProtocol::Off);
        return vec![ListenerDraft { path, address: Some(everywhere), tls: None, proxy_protocol }];
    };
    sections.into_iter().map(listener).collect()
}

fn listener(section: Section<'_>) -> ListenerDraft {
    let tls = section.section_if_present("tls").map(tls);
    let address = section.scalar("address");
    let proxy_protocol = section.scalar("proxy_protocol").or(ProxyProtocol::Off);
    let draft = ListenerDraft {
        path: section.path().to_owned(),
        address: section.required("address", address),
        tls,
        proxy_protocol: proxy_protocol.map_or(ProxyProtocol::Off, |given| given.value),
    };
    section.finish();
    draft
}

fn tls(section: Section<'_>) -> TlsDraft {
    let additional = section.sections("additional").unwrap_or_default().into_iter().map(|section| {
        let draft = certificate(&section);
        section.finish();
        draft
    });
    let draft = TlsDraft {
        certificates: std::iter::once(certificate(&section)).chain(additional).collect(),
        client_ca: section.scalar("client_ca").value(),
        client_crl: section.scalar("client_crl").value(),
        client_auth: section.scalar("client_auth").value(),
    };
    section.finish();
    draft
}

fn endpoint_tls(section: Section<'_>) -> Option<CertificateDraft> {
    let draft = section.is_present(&["certificate", "key"]).then(|| certificate(&section));
    section.finish();
    draft
}

fn certificate(section: &Section<'_>) -> CertificateDraft {
    let (certificate, key) = (section.scalar("certificate"), section.scalar("key"));
    CertificateDraft {
        path: section.path().to_owned(),
        certificate: section.required("certificate", certificate),
        key: section.required("key", key),
    }
}

fn trusted(section: Section<'_>) -> Vec<IpNet> {
    let ranges = section.list("trusted").value();
    section.finish();
    ranges.map_or(Vec::new(), |ranges| ranges.value.into_iter().map(|range| range.value).collect())
}

fn access_log(section: Section<'_>) -> AccessLog {
    let format = section.scalar("format").or(AccessLog::Json).map_or(AccessLog::Json, |format| format.value);
    section.finish();
    format
}

impl Draft {
    /// Whether the node's own leaving leaves time for anything but waiting.
    pub(super) fn settles_too_long(&self) -> bool {
        self.drain.settle > self.drain.deadline && self.drain.deadline > Duration::ZERO
    }
}
