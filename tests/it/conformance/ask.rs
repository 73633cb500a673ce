//! The language of the table: what is asked from where, and what must come of it.

use serde_json::{Value, json};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// `echo-v1` of the mesh's namespace.
    Mesh,
    /// `echo-v1` of the consumers' namespace.
    Consumer,
}

/// A case of the suite: its routes are the part of a data file that has its name.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// As the suite calls it.
    pub(crate) name: &'static str,
    /// One after another.
    pub(crate) asks: Vec<Ask>,
    /// What mirrors must have seen in the end: the pod, the path, and between how many and how many copies.
    pub(crate) mirrored: Vec<(&'static str, &'static str, u64, u64)>,
    /// A route's condition that must be there: type, status, reason.
    pub(crate) condition: Option<[&'static str; 3]>,
}

/// A question, and what must come of it.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// Who asks.
    pub(crate) who: Who,
    scheme: &'static str,
    to: &'static str,
    name: &'static str,
    method: &'static str,
    path: &'static str,
    headers: Headers,
    count: u32,
    want: Want,
}

type Headers = Vec<(&'static str, &'static str)>;

/// What must come: where nothing is said, a success by any backend.
#[derive(Clone, Debug, Default)]
struct Want {
    status: i64,
    backend: Option<&'static str>,
    location: Option<&'static str>,
    /// What the backend must have seen.
    path: Option<&'static str>,
    host: Option<&'static str>,
    seen: Headers,
    unseen: Vec<&'static str>,
    /// What the client must get.
    got: Headers,
    absent: Vec<&'static str>,
    /// Of many calls, each backend's share.
    shares: Vec<(&'static str, f64)>,
    /// A header that must name the backend that got it.
    names_backend: Option<&'static str>,
}

/// A case by its name.
pub(crate) fn case(name: &'static str, asks: Vec<Ask>) -> Case {
    Case {
        name,
        asks,
        mirrored: vec![],
        condition: None,
    }
}

fn ask(scheme: &'static str, to: &'static str, path: &'static str, status: i64) -> Ask {
    Ask {
        who: Who::Mesh,
        scheme,
        to,
        name: "",
        method: "GET",
        path,
        headers: vec![],
        count: 1,
        want: Want {
            status,
            ..Want::default()
        },
    }
}

/// A path of `http://echo`.
pub(crate) fn get(path: &'static str) -> Ask {
    ask("http", "echo", path, 200)
}

/// A method of `echo:7070`.
pub(crate) fn call(path: &'static str) -> Ask {
    ask("grpc", "echo:7070", path, 0)
}

/// A line to `echo:9090`.
pub(crate) fn line() -> Ask {
    ask("tcp", "echo:9090", "", 0)
}

/// A request of `https://echo`, whose TLS asks for a name.
pub(crate) fn tls(name: &'static str) -> Ask {
    Ask {
        name,
        ..ask("https", "echo:443", "/", 200)
    }
}

impl Ask {
    /// Another destination: host and port. `{echo-v2}` is that pod's address.
    pub(crate) fn to(mut self, to: &'static str) -> Self {
        self.to = to;
        self
    }

    pub(crate) fn by(mut self, who: Who) -> Self {
        self.who = who;
        self
    }

    pub(crate) fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    pub(crate) fn times(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// The status that comes, of HTTP or gRPC; -1 is none.
    pub(crate) fn status(mut self, status: i64) -> Self {
        self.want.status = status;
        self
    }

    /// The name that the answering pod's begins with.
    pub(crate) fn backend(mut self, backend: &'static str) -> Self {
        self.want.backend = Some(backend);
        self
    }

    /// A redirect, and to where.
    pub(crate) fn redirect(mut self, status: i64, location: &'static str) -> Self {
        (self.want.status, self.want.location) = (status, Some(location));
        self
    }

    /// The path that the backend sees.
    pub(crate) fn sees_path(mut self, path: &'static str) -> Self {
        self.want.path = Some(path);
        self
    }

    /// The host that the backend sees.
    pub(crate) fn sees_host(mut self, host: &'static str) -> Self {
        self.want.host = Some(host);
        self
    }

    /// A header that the backend sees.
    pub(crate) fn sees(mut self, name: &'static str, value: &'static str) -> Self {
        self.want.seen.push((name, value));
        self
    }

    /// A header that the backend does not see.
    pub(crate) fn sees_no(mut self, name: &'static str) -> Self {
        self.want.unseen.push(name);
        self
    }

    /// A header of the answer.
    pub(crate) fn gets(mut self, name: &'static str, value: &'static str) -> Self {
        self.want.got.push((name, value));
        self
    }

    /// A header that the answer has not.
    pub(crate) fn gets_no(mut self, name: &'static str) -> Self {
        self.want.absent.push(name);
        self
    }

    /// So many calls, shared like this, within five standard deviations: 5 % at 2,100 calls.
    pub(crate) fn shares(mut self, count: u32, shares: &[(&'static str, f64)]) -> Self {
        (self.count, self.want.shares) = (count, shares.to_vec());
        self
    }

    /// Each of many calls has a header that names the backend that got it.
    pub(crate) fn names_backend(mut self, header: &'static str) -> Self {
        self.want.names_backend = Some(header);
        self
    }

    /// The question, as the client in the pod reads it.
    pub(crate) fn question(&self, address_of_v2: &str) -> Value {
        json!({
            "scheme": self.scheme, "to": self.to.replace("{echo-v2}", address_of_v2), "name": self.name,
            "method": self.method, "path": self.path, "headers": self.headers, "count": self.count,
            "each": self.want.names_backend.is_some(),
        })
    }

    /// The question, for people.
    pub(crate) fn title(&self) -> String {
        let headers: String = self
            .headers
            .iter()
            .map(|(name, value)| format!(" {name}:{value}"))
            .collect();
        let times = if self.count > 1 {
            format!(" x{}", self.count)
        } else {
            String::new()
        };
        let (method, scheme, to, name, path) = (self.method, self.scheme, self.to, self.name, self.path);
        format!("{:?}: {method} {scheme}://{to}{path} {name}{headers}{times}", self.who)
    }

    /// What is wrong with what came.
    pub(crate) fn wrong(&self, came: &Value) -> Vec<String> {
        let want = &self.want;
        let mut wrong = Vec::new();
        let mut differ = |what: String, wanted: &str, got: String| {
            if wanted != got {
                wrong.push(format!("{what}: wanted {wanted:?}, got {got:?}"));
            }
        };
        let text = |value: &Value| value.as_str().unwrap_or("none").to_owned();
        differ(
            "status".to_owned(),
            &want.status.to_string(),
            came["status"].to_string(),
        );
        let (seen, got) = (&came["seen"], &came["headers"]);
        if let Some(backend) = want.backend {
            let pod = text(&seen["pod"]);
            let named = if pod.starts_with(backend) {
                backend.to_owned()
            } else {
                pod
            };
            differ("backend".to_owned(), backend, named);
        }
        if let Some(path) = want.path {
            differ("path at the backend".to_owned(), path, text(&seen["path"]));
        }
        if let Some(host) = want.host {
            differ("host at the backend".to_owned(), host, text(&seen["host"]));
        }
        if let Some(location) = want.location {
            differ("location".to_owned(), location, header(got, "location"));
        }
        for (name, value) in &want.seen {
            differ(format!("{name} at the backend"), value, header(&seen["headers"], name));
        }
        for name in &want.unseen {
            differ(format!("{name} at the backend"), "none", header(&seen["headers"], name));
        }
        for (name, value) in &want.got {
            differ((*name).to_owned(), value, header(got, name));
        }
        for name in &want.absent {
            differ((*name).to_owned(), "none", header(got, name));
        }
        wrong.extend(self.wrong_shares(&came["pods"]));
        wrong.extend(self.wrong_names(&came["all"]));
        if !wrong.is_empty() {
            wrong.push(format!("said: {}", text(&came["text"])));
        }
        wrong
    }

    fn wrong_shares(&self, pods: &Value) -> Option<String> {
        let of = |backend: &str| -> f64 {
            let pods = pods.as_object().into_iter().flatten();
            pods.filter(|(pod, _)| pod.starts_with(backend))
                .filter_map(|(_, count)| count.as_f64())
                .sum()
        };
        let count = f64::from(self.count);
        let off = |(backend, share): &&(&str, f64)| {
            let tolerance = 5.0 * (share * (1.0 - share) / count).sqrt();
            (of(backend) / count - share).abs() > tolerance
        };
        let wanted = &self.want.shares;
        wanted
            .iter()
            .find(off)
            .map(|_| format!("shares: wanted {wanted:?}, got {pods}"))
    }

    fn wrong_names(&self, all: &Value) -> Option<String> {
        let name = self.want.names_backend?;
        let named = |call: &Value| {
            let seen = &call[1];
            let pod = seen["pod"].as_str().unwrap_or_default();
            call[0] == self.want.status && pod.starts_with(&header(&seen["headers"], name))
        };
        let calls = all.as_array().map_or(&[][..], Vec::as_slice);
        let right = calls.iter().filter(|call| named(call)).count();
        (right != self.count as usize).then(|| format!("{name} named the backend {right} times of {}", self.count))
    }
}

/// All values of a header, in their order.
fn header(headers: &Value, name: &str) -> String {
    let pairs = headers.as_array().map_or(&[][..], Vec::as_slice);
    let values: Vec<&str> = pairs
        .iter()
        .filter(|pair| pair[0].as_str().is_some_and(|of| of.eq_ignore_ascii_case(name)))
        .filter_map(|pair| pair[1].as_str())
        .collect();
    if values.is_empty() {
        "none".to_owned()
    } else {
        values.join(",")
    }
}
