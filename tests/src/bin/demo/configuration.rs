//! The YAML of the demo: a platform team's Gateway, and the routes of two teams.

use anyhow::Result;
use moorgate_tests::manifest::{self, Listener};
use moorgate_tests::repository::Repository;

/// The hostname of all requests.
pub(crate) const HOST: &str = "shop.example.com";

/// The file that changes later.
pub(crate) const ROUTE_FILE: &str = "teams/shop/route.yaml";

/// Writes everything but the team's changing route.
pub(crate) fn write(repository: &Repository, http: u16, https: u16) -> Result<()> {
    let listeners = [Listener::http("http", http), Listener::https("https", https, "public-certificate")];
    repository.write("platform/class.yaml", &manifest::gateway_class())?;
    repository.write("platform/gateway.yaml", &manifest::gateway("edge", "public", &listeners))?;
    let services = ["cart", "checkout"].map(|name| manifest::service("shop", name));
    repository.write("teams/shop/services.yaml", &manifest::documents(&services))?;
    repository.write("teams/blog/service.yaml", &manifest::service("blog", "articles"))?;
    let rules = manifest::rule("/blog", "articles");
    let route = manifest::http_route("blog", "articles", "edge/public", &[HOST], &rules);
    repository.write("teams/blog/route.yaml", &route)?;
    write_route(repository, "cart")
}

/// The shop's route: `/cart` goes to this Service.
pub(crate) fn write_route(repository: &Repository, service: &str) -> Result<()> {
    let rules = manifest::rule("/cart", service);
    repository.write(ROUTE_FILE, &manifest::http_route("shop", "cart", "edge/public", &[HOST], &rules))
}
