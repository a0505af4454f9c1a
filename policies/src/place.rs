//! The order of filters: each capability that has a filter says where it stands, and why.
//!
//! Whoever answers a request early stands early; what decides by something stands behind what finds it out; what changes a
//! response stands late, because responses pass the filters backwards. The numbers leave room; a test holds the whole order.

/// Headers of all responses: whoever gave one, the first filter is the last that it passes.
pub const LATE_HEADERS: u16 = 40;
/// Whoever asks whether a listener is well has no credentials, and means no route.
pub const HEALTH: u16 = 50;
/// Responses pass backwards: whoever gave one, also whoever kept a request out, it is replaced when all others have seen it.
pub const CUSTOM_RESPONSE: u16 = 60;
/// Filters of listeners, before a route is looked for.
pub const LISTENER: u16 = 100;
/// Faults on purpose: before anything that costs.
pub const FAULT: u16 = 200;
/// A preflight carries no credentials, so it is answered before anybody is asked for them.
pub const CORS: u16 = 300;
/// What a browser sends as gRPC-Web is gRPC for all behind.
pub const GRPC_WEB: u16 = 310;
/// A forged request of a browser is refused before its cookies count for anything.
pub const CSRF: u16 = 350;
/// A service that is asked whether a request may pass: before what it costs to read tokens, as its answer may change them.
pub const EXTERNAL_AUTH: u16 = 400;
/// Clients that show a key are known before tokens are read.
pub const API_KEY_AUTH: u16 = 420;
/// Users with passwords are known before tokens are read.
pub const BASIC_AUTH: u16 = 440;
/// Whoever has to log in is sent away before his tokens are read.
pub const OIDC: u16 = 460;
/// Tokens are read before anything decides by their claims.
pub const JWT: u16 = 500;
/// A client keeps its endpoint; whoever may not pass gets none.
pub const SESSION: u16 = 600;
/// A request is held whole before scripts and services see its body.
pub const BUFFER: u16 = 650;
/// Scripts see a request that was let in, and may change what is decided by below.
pub const LUA: u16 = 700;
/// Services that change requests, behind scripts that prepare for them.
pub const EXTERNAL_PROCESSING: u16 = 750;
/// Modules see what scripts and services have made of a request.
pub const WASM: u16 = 780;
/// Modules that run inside of Envoy see what all others made of a request.
pub const DYNAMIC_MODULE: u16 = 785;
/// Where a client is, asked for those rules alone that decide by it, and only once a request has come this far.
pub const LOCATION: u16 = 790;
/// Who may do what, decided by address, headers and claims that all of the above found out.
pub const AUTHORIZATION: u16 = 800;
/// Only requests that may pass use up a limit.
pub const LOCAL_RATE_LIMIT: u16 = 900;
/// Only what the limit of each Envoy lets pass is counted by the service that all share.
pub const GLOBAL_RATE_LIMIT: u16 = 910;
/// Requests and responses are slowed down last of all that may refuse them.
pub const BANDWIDTH: u16 = 950;
/// Load is shed by what backends answer, not by what was refused before.
pub const ADMISSION: u16 = 970;
/// The host of a request that goes anywhere is looked up when nobody changes it any more.
pub const RESOLVE: u16 = 980;
/// What was found is judged before anybody connects to it.
pub const RESOLVED: u16 = 990;
/// A credential is put in when nobody but the backend sees it any more.
pub const CREDENTIAL: u16 = 1050;
/// Responses are compressed when nobody changes their bodies any more: responses pass backwards, so this is the first
/// to see one, but for what replaces it whole.
pub const COMPRESSION: u16 = 1100;
/// Calls are counted as backends get them, and answers before anybody changes them.
pub const CALL_COUNTS: u16 = 1150;
