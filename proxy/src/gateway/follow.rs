//! Gateway: one table for all workers, made on the back thread.
//!
//! In: what is believed, as it changes. Out: the [`Table`] of it, which every worker decides by from the moment on that it is
//! there. It is made again only where something has changed that it is made of: most of what changes is about one of many
//! Services, or about none.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;

use tokio::sync::watch;
use weft_model::identity::TrustDomain;
use weft_proto::resource::Exported;

use super::table::Table;
use crate::discover::{Beliefs, State};

/// The table, as a worker has it.
#[derive(Clone, Debug)]
pub struct Followed {
    /// Where connections may go.
    pub table: watch::Receiver<Arc<Table>>,
    /// Of which generation of what is believed that is.
    pub generation: watch::Receiver<u64>,
}

/// Makes the tables.
#[derive(Debug)]
pub struct Tables {
    made_of: Parts,
    table: watch::Sender<Arc<Table>>,
    generation: watch::Sender<u64>,
}

/// What a table is made of.
#[derive(Debug, Default)]
struct Parts {
    trust_domain: Option<TrustDomain>,
    exported: HashMap<String, Arc<Exported>>,
}

impl Tables {
    /// Of what is believed now.
    pub fn new(state: &State) -> (Self, Followed) {
        let table = watch::Sender::new(Arc::new(Table::of(state)));
        let generation = watch::Sender::new(state.generation);
        let followed = Followed {
            table: table.subscribe(),
            generation: generation.subscribe(),
        };
        let tables = Self {
            made_of: Parts::of(state),
            table,
            generation,
        };
        (tables, followed)
    }

    /// Follows what is believed, for ever.
    pub async fn run(mut self, beliefs: Beliefs) -> Infallible {
        loop {
            let known = *self.generation.borrow();
            let state = beliefs.newer(known).await;
            self.take(&state);
        }
    }

    fn take(&mut self, state: &State) {
        let parts = Parts::of(state);
        if !parts.is_same(&self.made_of) {
            self.table.send_replace(Arc::new(Table::of(state)));
        }
        self.made_of = parts;
        // Last: who hears of it has the table of it.
        self.generation.send_replace(state.generation);
    }
}

impl Parts {
    fn of(state: &State) -> Self {
        let passes = state.passes.iter();
        let exported = passes.flat_map(|passes| {
            let keys = passes.gateway.iter().flat_map(|held| held.value.iter());
            keys.filter_map(|key| Some((key.clone(), passes.exported.get(key)?.value.clone())))
        });
        Self {
            trust_domain: state.mesh.held.as_ref().map(|held| held.value.trust_domain.clone()),
            exported: exported.collect(),
        }
    }

    /// Whether the same table would be made of both. What did not change is not made anew, so that it need not be compared.
    fn is_same(&self, other: &Self) -> bool {
        let has =
            |(key, one): (&String, &Arc<Exported>)| other.exported.get(key).is_some_and(|two| Arc::ptr_eq(one, two));
        self.trust_domain == other.trust_domain
            && self.exported.len() == other.exported.len()
            && self.exported.iter().all(has)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;
    use weft_model::sni;
    use weft_proto::resource::name::{GATEWAY, MESH};
    use weft_proto::resource::{Body, Kind};

    use super::*;
    use crate::discover::store::Store;
    use crate::discover::testing;

    const ONE: (&str, u8) = ("reviews-1", 7);
    const ANOTHER: (&str, u8) = ("reviews-2", 8);

    /// A gateway that passes one port of reviews.
    fn store() -> Store {
        let mut store = Store::new(Duration::from_secs(3), 10).of_gateway();
        let gateway = Body::Gateway(vec!["shop/reviews:80".to_owned()]);
        let resources = vec![
            testing::says(MESH, &testing::mesh(), 1),
            testing::says(GATEWAY, &gateway, 1),
            testing::says("shop/reviews:80", &testing::exported(&[ONE]), 1),
        ];
        say(&mut store, resources);
        store
    }

    fn say(store: &mut Store, resources: Vec<weft_proto::discovery::Resource>) {
        let applied = store.apply(testing::batch(1, 1, resources), Instant::now());
        assert!(applied.refused.is_empty(), "{applied:?}");
    }

    fn leads(table: &Table, (pod, last): (&str, u8)) -> bool {
        let endpoint = testing::endpoint(pod, last);
        let domain = testing::domain();
        let name = format!("p{}.{}.reviews.shop.svc.{domain}", endpoint.key.port, endpoint.key.id);
        table.find(&sni::parse(&name).expect("a name of the mesh")).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn all_workers_have_one_table_and_it_is_made_again_only_where_what_is_passed_has_changed() {
        let mut store = store();
        let (mut tables, followed) = Tables::new(store.state());
        let another = followed.clone();
        let table = || followed.table.borrow().clone();
        let (first, workers) = (table(), Arc::strong_count(&table()) - 1);
        assert!(leads(&first, ONE));
        assert!(Arc::ptr_eq(&first, &another.table.borrow()), "of one memory");
        assert_eq!(workers, 2, "the channel's, and ours");

        // About none of what is passed; said again; and another generation without a batch.
        say(&mut store, vec![testing::says(MESH, &testing::mesh(), 2)]);
        tables.take(store.state());
        store.set_credential(None);
        tables.take(store.state());
        assert!(Arc::ptr_eq(&first, &table()));
        assert_eq!(*followed.generation.borrow(), store.state().generation);

        let changed = testing::exported(&[ANOTHER]);
        say(&mut store, vec![testing::says("shop/reviews:80", &changed, 2)]);
        tables.take(store.state());
        let second = table();
        assert!(leads(&second, ANOTHER) && !leads(&second, ONE));
        assert_eq!(Arc::strong_count(&first), 1, "the old one is not kept");

        say(&mut store, vec![testing::says(GATEWAY, &Body::Gateway(Vec::new()), 2)]);
        say(&mut store, vec![testing::removed(Kind::Exported, "shop/reviews:80")]);
        tables.take(store.state());
        assert!(!leads(&table(), ANOTHER));
    }
}
