//! One list of routes: path, handler, description and who may use it stand together. Router, OpenAPI description and access
//! control are made of it.

use std::collections::HashMap;

use axum::Router;
use axum::http::Method;
use axum::routing::MethodRouter;
use utoipa::openapi::path::Operation;
use utoipa::openapi::{OpenApi, PathItem};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::access::Role;
use crate::app::App;

/// What a route needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Requirement {
    /// No key.
    Nothing,
    /// A key of at least this role. What the route reaches is in its path, or is nobody's data.
    Role(Role),
    /// A key of at least this role that is not limited to a tenant: the route reaches the whole store.
    WholeStore(Role),
}

/// The list, as far as it was written down.
pub(super) struct RouteList {
    router: OpenApiRouter<App>,
    requirements: Requirements,
}

impl RouteList {
    /// Without routes; `base` is what the description says of them all.
    pub(super) fn new(base: OpenApi) -> Self {
        Self {
            router: OpenApiRouter::with_openapi(base),
            requirements: Requirements::default(),
        }
    }

    /// Adds handlers of one path, which are in the description.
    pub(super) fn described(
        mut self,
        requirement: Requirement,
        mut routes: UtoipaMethodRouter<App>,
    ) -> Self {
        let (_, paths, _) = &mut routes;
        for (path, item) in &mut paths.paths {
            for (method, _) in operations(item) {
                self.requirements.add(path, Some(method), requirement);
            }
        }
        self.router = self.router.routes(routes);
        self
    }

    /// Adds a path that is not in the description.
    pub(super) fn plain(
        mut self,
        requirement: Requirement,
        path: &str,
        routes: MethodRouter<App>,
    ) -> Self {
        self.requirements.add(path, None, requirement);
        self.router = self.router.route(path, routes);
        self
    }

    /// Adds paths whose routes somebody else makes.
    pub(super) fn foreign(mut self, requirement: Requirement, paths: &[&str]) -> Self {
        for path in paths {
            self.requirements.add(path, None, requirement);
        }
        self
    }

    /// Router, description, and who may use what.
    pub(super) fn finish(self) -> (Router<App>, OpenApi, Requirements) {
        let (router, description) = self.router.split_for_parts();
        (router, description, self.requirements)
    }
}

/// What is described of a path, by method.
pub(super) fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    [
        (Method::GET, &mut item.get),
        (Method::PUT, &mut item.put),
        (Method::POST, &mut item.post),
        (Method::PATCH, &mut item.patch),
        (Method::DELETE, &mut item.delete),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// What each route needs.
#[derive(Default)]
pub(super) struct Requirements {
    /// By path; without a method: for all of them.
    routes: HashMap<String, Vec<(Option<Method>, Requirement)>>,
}

impl Requirements {
    fn add(&mut self, path: &str, method: Option<Method>, requirement: Requirement) {
        let path = self.routes.entry(path.to_owned()).or_default();
        path.push((method, requirement));
    }

    /// What the route of this method and path (as in the list) needs. A method that the path does not take is refused as such to
    /// whoever may use any of those that it takes; what is not in the list is closed.
    pub(super) fn of(&self, method: &Method, route: &str) -> Requirement {
        let listed = self.routes.get(route).into_iter().flatten();
        let method = if *method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        let is_this = |known: &Option<Method>| known.as_ref().is_none_or(|known| known == method);
        let exact = listed.clone().find(|(known, _)| is_this(known));
        exact
            .or_else(|| listed.min_by_key(|(_, requirement)| *requirement))
            .map_or(Requirement::WholeStore(Role::Operator), |(_, found)| *found)
    }

    /// Whether a route is open to everybody.
    pub(super) fn is_open(&self, route: &str) -> bool {
        self.of(&Method::GET, route) == Requirement::Nothing
    }

    /// What a route needs, as a sentence.
    pub(super) fn describe(&self, method: &Method, route: &str) -> Option<String> {
        let (role, limit) = match self.of(method, route) {
            Requirement::Nothing => return None,
            Requirement::Role(role) => (role, ""),
            Requirement::WholeStore(role) => (role, ", not limited to a tenant"),
        };
        Some(format!(
            "Where keys are configured: a key of the role `{}` or above{limit}.",
            role.as_str()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_listed_is_closed_and_an_unknown_method_needs_the_least_of_its_path() {
        let mut listed = Requirements::default();
        let (reader, writer) = (
            Requirement::Role(Role::Reader),
            Requirement::Role(Role::Writer),
        );
        listed.add("/a", Some(Method::POST), writer);
        listed.add("/a", Some(Method::GET), reader);
        listed.add("/open", Some(Method::GET), Requirement::Nothing);
        listed.add("/any", None, reader);
        for (method, route, needed) in [
            (Method::GET, "/a", reader),
            (Method::HEAD, "/a", reader),
            (Method::POST, "/a", writer),
            (Method::PATCH, "/a", reader),
            (Method::PUT, "/open", Requirement::Nothing),
            (Method::DELETE, "/any", reader),
            (Method::GET, "/a/", Requirement::WholeStore(Role::Operator)),
        ] {
            assert_eq!(listed.of(&method, route), needed, "{method} {route}");
        }
        assert!(listed.is_open("/open") && !listed.is_open("/any"));
    }
}
