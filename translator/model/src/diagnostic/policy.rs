//! Codes of policies: attachment, merging, and what a policy cannot do.

crate::codes! { Semantic;
    POLICY_TARGET_NOT_FOUND = "MG4001", Warning, "a policy's target does not exist",
        "The policy names an object, or a section of it, that is not in this source, so it has no effect. \
         Check kind, name and section name, and that the target lies in the policy's namespace.";
    POLICY_INVALID = "MG4002", Error, "a policy cannot be read",
        "The policy breaks a rule of its kind, so nobody can say what it asks for. If it restricts access, what it \
         targets is closed until it is valid; otherwise it has no effect.";
    CA_NOT_FOUND = "MG4003", Error, "a CA certificate reference names nothing",
        "The object is not in this source, although its kind is closed. Without any valid CA certificate no \
         connection can be verified, so none is made.";
    CA_UNUSABLE = "MG4004", Error, "a CA certificate reference names an object without a usable certificate",
        "The object must hold PEM certificates under the key ca.crt. Without any valid CA certificate no connection \
         can be verified, so none is made.";
    CA_KIND_UNSUPPORTED = "MG4005", Error, "a CA certificate reference names a kind that cannot hold one",
        "CA certificates are taken from ConfigMaps, key ca.crt, and from ClusterTrustBundles. Other kinds are not supported by \
         this version.";
    POLICY_CONFLICTED = "MG4007", Warning, "another policy of the same kind has the same target",
        "Of policies of one kind with one target the older wins, if both have creation times, else the first by \
         namespace and name. This one has no effect on that target.";
    POLICY_OPTION_IGNORED = "MG4008", Warning, "an option of a policy is not known",
        "Options are specific to an implementation, and this version knows none of that name. It has no effect.";
    POLICY_TARGET_KIND = "MG4009", Error, "a policy cannot target objects of this kind",
        "Each kind of policy changes certain kinds of objects only. Other targets of the policy are in effect; a Service of \
         the name that is given is not reached, because it was probably meant.";
    POLICY_SECTION_NOT_FOUND = "MG4010", Error, "a policy names a section that its target does not have",
        "The Service exists, but has no port of that name, so nobody can say which port was meant. No connection is made \
         to those of its ports that no other policy speaks of: without the policy they would be reached unverified.";
    POLICY_APPROXIMATE = "MG4011", Warning, "a field of a policy has no counterpart in Envoy",
        "The policy is in effect, but Envoy has nothing that does what this field says. The message says what happens \
         instead.";
    POLICY_PORT_CONFLICT = "MG4012", Error, "policies of listeners that share a port do not agree",
        "Envoy has one listener for a port, so what is said of connections before TLS, and of requests without TLS, holds for \
         all listeners of the port. The policies that speak of some of them only, or differ, have no effect there. Attach \
         one policy to all of them, or use a port of its own.";
    POLICY_TARGET_NOT_PERMITTED = "MG4013", Warning, "a policy selects a target of another namespace without a grant",
        "A ReferenceGrant in the target's namespace must allow policies of this kind and namespace to refer to it. Without one \
         the policy has no effect on that target.";
    INPUT_MISSING = "MG4030", Error, "an input that a policy needs is not declared",
        "Nothing is fetched while compiling: what stands behind a URL is declared in the source, with its digest, and reviewed \
         like any other change. Run `moorgate inputs update` on the folder and commit what it writes. Until then what the policy \
         restricts is closed.";
    INPUT_UNUSABLE = "MG4031", Error, "a declared input cannot be used",
        "The digest of the Input does not fit its content, or the content is not what the policy needs behind this URL. Somebody \
         has edited it, or the provider gave something else. What needs it is not carried out; if it restricts access, what the \
         policy targets is closed. `moorgate inputs update` writes it anew.";
    INPUT_TWICE = "MG4032", Warning, "two Inputs of a namespace declare the same URL",
        "One URL has one content: the first by name counts, and this one has no effect. Remove one of them.";
    PATCH_OFF = "MG4040", Warning, "EnvoyPatchPolicies are not applied",
        "Patches change what Envoy gets behind the back of everything else, so they are applied only where somebody decided to: \
         with --envoy-patch-policy. Without it they have no effect; one that may restrict access closes what it targets instead \
         (MG4102).";
    PATCH_TARGET = "MG4041", Error, "a patch names something that is not there",
        "The Gateway, or the resource of that type and name, does not exist. The message names one that is near. Names of resources \
         are described in deploy/patches.md, and `moorgate compile -o envoy` prints them all. Nothing of the policy is in force; if it \
         may restrict access, what it targets answers 500.";
    PATCH_MEETS_NOTHING = "MG4042", Error, "a patch does not meet anything any more",
        "The resource is there, but not the place in it, or a test failed: it has changed since the patch was written. Nothing of the \
         policy is in force; if it may restrict access, what it targets answers 500. Prefer a jsonPath that looks for names to places \
         in lists.";
    PATCH_MISFIT = "MG4043", Error, "a patch does not fit the type of its resource",
        "What the patch makes is no message of its type by Envoy's own descriptors, or the patch itself cannot be read. Nothing of the \
         policy is in force; if it may restrict access, what it targets answers 500.";
    PATCH_WEAKENS = "MG4044", Error, "a patch takes away what restricts access",
        "A filter that authenticates, authorizes or limits would be gone, moved or changed, or certificates would not be checked as \
         before, or requests would be answered before a guarded route sees them. If that is what is wanted, say so with the annotation \
         moorgate.dev/may-weaken: \"true\" on the policy. Until then nothing of it is in force.";
    PATCH_WEAKENED = "MG4045", Warning, "a patch takes away what restricts access, as it may",
        "The policy says that it may (moorgate.dev/may-weaken), or closed routes had to be put first again. The message says what it \
         concerns.";
    PATCH_REFUSED = "MG4046", Error, "a patch asks for what no patch may do",
        "A snapshot holds no secrets and no endpoints, resources keep their names, and what is closed because another policy cannot be \
         carried out stays closed. Nothing of the policy is in force; if it may restrict access, what it targets answers 500.";
    RATE_LIMIT_SERVICE = "MG4050", Error, "a global rate limit has no service that counts",
        "Envoys do not count a global limit themselves: each asks a service (envoyproxy/ratelimit). Which one is said by the annotation \
         moorgate.dev/rate-limit-service of the Gateway, or of its GatewayClass for all Gateways of the class: namespace/name:port \
         of a Service, or namespace/name of a Backend. Without one that can be used, what the policy targets at this Gateway \
         answers 500, since nothing would bound it.";
    FLEET_LACKS = "MG4051", Error, "a policy needs what the parameters of a fleet do not give",
        "Rules that decide by where a client is need a database, and modules that run inside of Envoy need a grant; only the operator \
         of a fleet can say which there are and where their files lie: geoIP and dynamicModules in the EnvoyProxy of the Gateway or its \
         class. Without it what the policy targets at this Gateway answers 500. The file itself must lie under that path beside each \
         Envoy. Where it does not, Envoy refuses the listener, and the relay serves the last good snapshot on; of a missing \
         database that holds for Envoy 1.40, and older ones would end, so they stay at the snapshot before.";
    POLICY_UNSUPPORTED = "MG4101", Warning, "a policy of this kind is not supported yet",
        "The kind is known, but this version does not compile it, and it restricts nothing. It has no effect.";
    POLICY_RESTRICTS = "MG4102", Error, "a policy that restricts access is not supported yet",
        "This version cannot carry the policy out. Because it restricts who may do what, everything that it targets \
         answers 500 until the policy is removed or supported: nothing passes that it would have stopped.";
    POLICY_FIELD_UNSUPPORTED = "MG4104", Warning, "a field of a policy is not supported",
        "The policy is in effect, but this field of it is not. It restricts nothing. `moorgate policies --fields` lists what is \
         supported.";
    POLICY_FIELD_UNSUPPORTED_RESTRICTS = "MG4105", Error, "a field of a policy that restricts access is not supported",
        "This version cannot carry the field out. Because it restricts who may do what, everything that the policy targets \
         answers 500 (a listener: refuses connections) until the field is removed or supported: nothing passes that it would \
         have stopped. `moorgate policies --fields` lists what is supported.";
    PARAMETER_UNUSABLE = "MG4106", Warning, "a field of an EnvoyProxy cannot be carried out",
        "The parameters are in effect, but this field of them is not, because of its value or of what it refers to. The message says \
         what is wrong, and the help what happens instead. Requests are served all the same.";
    PARAMETER_IGNORED = "MG4103", Warning, "a field of an EnvoyProxy has no effect",
        "The parameters are in effect, but this field of them is not: it is not supported by this version, not known, or does \
         not go with another one. The message says what happens instead.";
}
