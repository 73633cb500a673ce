//! The nouns and the decisions of the mesh.
//!
//! Pure: no I/O, no async, no wire types, no clock. The proxy, the control plane and the people's tools decide with this
//! same code, so they give the same answer.
//!
//! | noun | what it is |
//! |---|---|
//! | [`Identity`](identity::Identity) | who a workload is: a SPIFFE ID of trust domain, namespace and service account |
//! | [`Target`](destination::Target) | what an app dialled: an address and port, or a host and port |
//! | [`Lookup`](destination::Lookup) | what is there: a port of a Service, a pod, nothing of the mesh, or a port that does not exist |
//! | [`Service`](destination::Service) | one port of a Service as one client sees it: protocol, routes, endpoints, locality |
//! | [`Endpoint`](endpoint::Endpoint) | one port of one pod: address, the identity to expect there, place, version |
//! | [`Sni`](sni::Sni) | what an SNI name between proxies asks for: one endpoint of one Service, or a pod |
//! | [`EndpointKey`](endpoint::EndpointKey) | what an endpoint is known by everywhere: never its address |
//! | [`Route`](route::Rules) | which backends a request may go to, by match and weight |
//! | [`Streams`](stream::Streams) | which backends an opaque stream may go to, by server name and weight |
//! | [`Filters`](filter::Filters) | what a route does to a request and its response, beside choosing a backend |
//! | [`Locality`](locality::Locality) | which places are preferred, and when traffic spills over |
//! | [`Traffic`](traffic::Traffic) | how traffic to a Service is spread, and what retries may add |
//! | [`Inbound`](inbound::Inbound) | what a pod accepts: mode, ports, policies |
//! | [`Refusal`](pod_security::Refusal) | why a Namespace's Pod Security refuses pods with a sidecar |
//! | [`Networks`](network::Networks) | what counts as inside the mesh |
//! | [`Version`](version::Version) | of a resource: content and sources, comparable within an epoch |
//! | [`Reason`](reason::Reason) | why something was refused: a closed list of stable codes |

pub mod identity;
pub mod name;

pub mod destination;
pub mod endpoint;
pub mod filter;
pub mod inbound;
pub mod locality;
pub mod network;
pub mod pattern;
pub mod pod_security;
pub mod policy;
pub mod route;
pub mod stream;
pub mod traffic;

pub mod alpn;
pub mod feature;
pub mod reason;
pub mod sni;
pub mod version;
