//! Codes of class semantic: objects that an API server takes, but that do not fit together.

crate::codes! { Semantic;
    CLASS_NOT_FOUND = "MG3001", Error, "a Gateway names a GatewayClass that is not in this source",
        "Without its GatewayClass nobody knows whether this Gateway is ours, so it is not compiled. \
         Add the GatewayClass, or correct spec.gatewayClassName.";
    PARENT_NOT_FOUND = "MG3002", Warning, "a route names a parent that is not in this source",
        "The route is not attached there. The Gateway may be compiled from another source; if not, check the \
         parent's namespace and name.";
    NO_MATCHING_PARENT = "MG3003", Error, "a parent reference meets no listener",
        "The Gateway or ListenerSet exists, but no listener has the section name or port that the parent reference asks for.";
    NOT_ALLOWED_BY_LISTENERS = "MG3004", Error, "no listener allows this route",
        "Listeners admit routes by namespace and kind (allowedRoutes). By default only routes of the Gateway's own \
         namespace attach. The route is absent from the configuration of that Gateway.";
    NO_MATCHING_HOSTNAME = "MG3005", Error, "no hostname of the route fits a listener",
        "A route attaches where one of its hostnames intersects the listener's. None does, so no request can reach it.";
    BACKEND_NOT_FOUND = "MG3006", Error, "a backend does not exist",
        "The Service, or the port of it, is not in this source. Its share of the requests is answered with 500.";
    REF_NOT_PERMITTED = "MG3007", Error, "a reference into another namespace is not permitted",
        "References across namespaces need a ReferenceGrant in the namespace that is referred to. Whether the object \
         exists is not said. A backend's share of the requests is answered with 500; a certificate's listener refuses.";
    INVALID_KIND = "MG3008", Error, "a reference names a kind that cannot be used here",
        "Backends are Services, certificates are Secrets. The reference is treated as broken.";
    INVALID_CERTIFICATE = "MG3009", Error, "a certificate reference cannot be used",
        "The Secret is missing from this source although Secrets are closed, or is no usable TLS pair. Only this \
         listener is affected: it refuses connections until one of its certificates is good.";
    UNSUPPORTED_VALUE = "MG3010", Error, "a field has a value that is not supported",
        "The value is valid in the Gateway API, but this version cannot carry it out. Where it would restrict access \
         or change the answer, its rule answers 500 so that nothing passes by mistake.";
    INVALID_ROUTE_KINDS = "MG3011", Error, "a listener allows route kinds that its protocol cannot serve",
        "Kinds that do not fit the protocol are ignored; the rest of the listener works.";
    UNSUPPORTED_PROTOCOL = "MG3012", Error, "a listener's protocol is not supported",
        "The listener is not accepted; others of the Gateway work.";
    LISTENER_CONFLICT = "MG3013", Error, "listeners conflict",
        "Two listeners share port and hostname, or a port with protocols that cannot share it. Of two of one Gateway \
         neither is served, because nobody can say which was meant. One of a ListenerSet loses to those of the Gateway \
         and of older ListenerSets.";
    CROSS_NAMESPACE_MATCH = "MG3014", Warning, "a match takes requests that another namespace also claims",
        "Two routes of different namespaces match the same requests. The older wins if both have creation times, \
         else the first by namespace and name. Say who owns the hostname, or make the matches differ.";
    SHADOWED_MATCH = "MG3015", Warning, "a match can never be reached",
        "An earlier match of the same namespace has the same conditions and answers all of its requests.";
    REGEX_INVALID = "MG3016", Error, "a regular expression is not valid RE2, or is too large",
        "Envoy matches with RE2: no look-around, no back-references, and a bound on the compiled size. \
         Envoy would refuse the whole route table, so this match is left out: no request meets it.";
    PARENT_NOT_SUPPORTED = "MG3017", Error, "a parent of this kind is not supported",
        "Routes attach to Gateways and ListenerSets. A Service as parent (GAMMA, mesh) is out of scope.";
    INVALID_PARAMETERS = "MG3018", Error, "parameters cannot be used",
        "parametersRef names an object that is missing, of a kind that cannot hold parameters, or with a value that cannot be \
         used or carried out where it restricts. The GatewayClass or Gateway that names it is not accepted.";
    UNSUPPORTED_ADDRESS = "MG3019", Error, "an address cannot be used",
        "The address type is not supported. The Gateway is not accepted.";
    CERTIFICATE_NAMES = "MG3020", Warning, "a certificate does not cover the listener's hostname, or is out of date",
        "The pair is served, but clients will refuse it for this hostname or date.";
    NO_BACKENDS = "MG3021", Warning, "a rule has no backend with weight, and answers 500",
        "backendRefs is empty or all weights are zero, so there is nothing to answer with. Gateway API asks for 500.";
    INSECURE_FALLBACK = "MG3022", Warning, "client certificates are asked for but not required",
        "tls.frontend validation is in mode AllowInsecureFallback: connections without a valid certificate pass.";
    EXTERNAL_NAME_REFUSED = "MG3023", Error, "a Service of type ExternalName is not used as backend",
        "ExternalName lets whoever writes the Service point the proxy at any host, also its own admin port. Its share \
         of the requests is answered with 500.";
    FORMATTER_ESCAPED = "MG3024", Warning, "a percent sign in a header value is sent as it stands",
        "Envoy would read %...% as a formatter. The value is escaped, so that the backend sees the text as written.";
    TLS_REQUIRED = "MG3025", Error, "a listener needs a certificate",
        "The listener terminates TLS, so it needs at least one certificateRef. It refuses connections.";
    ROUTE_KIND_UNSUPPORTED = "MG3026", Error, "routes of this kind are not supported yet",
        "The kind is part of the Gateway API, but this version does not compile it. The object is not attached.";
    SNAPSHOT_REFUSED = "MG3027", Error, "a fleet cannot be made into a snapshot",
        "The configuration breaks a limit that translator and relay share (sizes, counts, duplicate names). Nothing \
         of this fleet is published; the message names the limit, and the places beside it the objects that take most.";
    NEAR_LIMIT = "MG3028", Warning, "a fleet is near a limit",
        "A snapshot of this fleet uses 80 % or more of a limit that translator and relay share. At 100 % the fleet is \
         not published any more. The message says which limit, and which objects take most of it.";
    OWNERSHIP_BREACH = "MG3029", Error, "a file defines what it may not define",
        "The ownership file says which paths may define which namespaces, kinds and hostnames, and no entry of it allows \
         this object. The object is left out; one that restricts access, or a route that a policy guards, instead keeps \
         the fleets that it concerns from being published.";
    REQUESTS_NOT_OWNED = "MG3030", Error, "a match takes requests from a namespace that it may not take from",
        "The ownership file does not let this route take requests from the other namespace: no entry that allows the \
         route has that namespace among its namespaces or in takesFrom. Which of the two was meant cannot be told, so \
         the fleets that the route names are not published.";
    TAKES_REQUESTS = "MG3031", Warning, "a match takes a part of the requests of another namespace",
        "A route of another namespace on the same hostname also matches these requests, and would answer them without \
         this match, which is more specific or earlier in the order of precedence. If that is meant, an ownership file \
         can say so, and the warning ends.";
    MATCHES_NOT_COMPARED = "MG3032", Warning, "too many matches on the same paths to tell who takes requests from whom",
        "Routes of several namespaces share a hostname and have so many matches on the same paths that not all pairs were \
         compared. With an ownership file this is an error in effect: the fleets that the route names are not published.";
    ADDRESS_REFUSED = "MG3033", Error, "a backend is in the proxy's own machine or network",
        "Whoever may name such a place could reach the proxy's admin port, the metadata of its machine or services past \
         their ReferenceGrants. Requests for it are answered with 500. Use a Service for what is in the cluster.";
    BACKEND_UNUSABLE = "MG3034", Error, "a backend exists, but cannot be used",
        "The object that the reference names is not valid, or asks for something that this version cannot do; it has a \
         diagnostic of its own. Its share of the requests is answered with 500.";
    REDIRECT_LOOP = "MG3035", Warning, "a redirect sends clients back to where they were",
        "The filter changes neither scheme, host, port nor path, so the client would ask the same again, until it gives up. \
         Name at least one of them.";
    CORS_ANY_ORIGIN = "MG3036", Warning, "every site may act with the credentials of its visitors",
        "The CORS filter allows all origins together with credentials: any page that a signed-in user opens can send \
         requests in their name and read the answers. List the origins that need this.";
    HOSTNAME_IS_ADDRESS = "MG3037", Error, "a hostname is an IP address",
        "Hostnames of the Gateway API are names: an API server takes an address for its form, but no server name and no \
         listener is meant by it. The hostname is left out; a route without any other is not attached there, and a listener \
         of it is not served. Leave hostname away to answer requests for addresses.";
    SET_NOT_ALLOWED = "MG3040", Error, "a Gateway does not allow this ListenerSet",
        "A Gateway says in allowedListeners from which namespaces ListenerSets may add listeners to it; by default from \
         none. The listeners of the set are not served, and routes that name the set are not attached.";
    CLIENT_CA_KIND = "MG3041", Error, "CA certificates for clients are taken from a kind that cannot hold any",
        "Clients are checked by the certificates of a ConfigMap, key ca.crt, or of a ClusterTrustBundle. Without any valid \
         reference the HTTPS listeners that it concerns refuse connections.";
    CLIENT_CA_INVALID = "MG3042", Error, "CA certificates for clients cannot be used",
        "The object is missing from this source although its kind is closed, or holds no PEM certificate. Without any \
         valid reference the HTTPS listeners that it concerns refuse connections.";
    NO_CLIENT_CA = "MG3043", Error, "clients of a listener cannot be checked",
        "tls.frontend asks for client certificates, but none of its references to CA certificates is valid. The listener \
         refuses connections, because without a check everybody would pass.";
    OVERLAPPING_TLS = "MG3044", Warning, "two listeners of one port share hostnames and a certificate",
        "Clients that speak HTTP/2 reuse a connection for another host if its certificate covers that host too, and so \
         meet the wrong listener. They get 421 then, and try again on a connection of their own. Use a certificate for \
         each listener to spare them that.";
    UNSUPPORTED_ROUTABILITY = "MG3045", Error, "an address cannot be reachable only from where it says",
        "An address of type IPAddress can have the routability Cluster: the IP address of a Service that only the cluster \
         reaches. Other values belong to other implementations. The Gateway is not accepted.";
}
