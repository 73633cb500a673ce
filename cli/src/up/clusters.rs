//! Several clusters in one command: whose manifests are whose, and which networks each has.
//!
//! In: `--cluster NAME -f PATH …`, in the order in which it was typed. Out: [`Places`], and of each cluster its [`Networks`]
//! and its place among the others.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, Error, FromArgMatches, value_parser};
use ipnet::{Ipv4Net, Ipv6Net};
use weft_local::up::Among;
use weft_local::up::clusters::MOST;

use crate::args;

/// The network that all pods are in with `--flat`.
const FLAT: &str = "flat";

/// Places of manifests: those of one mesh, or of each of several clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Places {
    /// Of one.
    One(Vec<PathBuf>),
    /// Of several, in order: name and places.
    Several(Vec<(String, Vec<PathBuf>)>),
}

/// The ranges of a cluster's pods and Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Networks {
    pub(crate) pods: (Ipv4Net, Ipv6Net),
    pub(crate) services: (Ipv4Net, Ipv6Net),
}

impl Args for Places {
    fn augment_args(command: Command) -> Command {
        let files = Arg::new("filename")
            .short('f')
            .long("filename")
            .value_name("PATH")
            .value_parser(value_parser!(PathBuf))
            .action(ArgAction::Append)
            .required(true)
            .help("Manifests: a directory (its files *.yaml, *.yml and *.json), a file, or - for standard input. Repeatable");
        let clusters = Arg::new("cluster")
            .long("cluster")
            .value_name("NAME")
            .value_parser(args::cluster_name)
            .action(ArgAction::Append)
            .help(format!(
                "Run several clusters, 2 to {MOST}: each --cluster has the -f that follow it, and is to the other commands a mesh of that name"
            ));
        command.arg(files).arg(clusters)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Places {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let files = placed::<PathBuf>(matches, "filename");
        let clusters = placed::<String>(matches, "cluster");
        // The variable is for those who name no cluster.
        let named = matches.value_source("name") == Some(ValueSource::CommandLine);
        if named && !clusters.is_empty() {
            let why = "the argument '--name <NAME>' cannot be used with '--cluster <NAME>': each cluster is a mesh of its own name";
            return Err(Error::raw(ErrorKind::ArgumentConflict, why));
        }
        group(clusters, files).map_err(|why| Error::raw(ErrorKind::ValueValidation, why))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The values of an argument, with where they stood.
fn placed<T: Clone + Send + Sync + 'static>(matches: &ArgMatches, id: &str) -> Vec<(usize, T)> {
    let at = matches.indices_of(id).into_iter().flatten();
    let values = matches.get_many::<T>(id).into_iter().flatten().cloned();
    at.zip(values).collect()
}

/// Gives each cluster what stands behind its name.
fn group(clusters: Vec<(usize, String)>, files: Vec<(usize, PathBuf)>) -> Result<Places, String> {
    let Some((first, name)) = clusters.first() else {
        return Ok(Places::One(files.into_iter().map(|(_, path)| path).collect()));
    };
    if let Some((_, path)) = files.iter().find(|(at, _)| at < first) {
        let path = path.display();
        return Err(format!(
            "-f {path} stands before --cluster {name}: put each -f behind the --cluster it is of"
        ));
    }
    if !(2..=MOST).contains(&clusters.len()) {
        let count = clusters.len();
        return Err(format!(
            "--cluster is for 2 to {MOST} clusters, not {count}: a mesh that is alone takes --name"
        ));
    }
    let mut ends = clusters.iter().skip(1).map(|(at, _)| *at).chain([usize::MAX]);
    let mut all: Vec<(String, Vec<PathBuf>)> = Vec::new();
    for (from, name) in &clusters {
        let until = ends.next().unwrap_or(usize::MAX);
        let own = files.iter().filter(|(at, _)| (from..&until).contains(&at));
        let own: Vec<PathBuf> = own.map(|(_, path)| path.clone()).collect();
        if own.is_empty() {
            return Err(format!("--cluster {name} has no manifests: put -f PATH behind it"));
        }
        if all.iter().any(|(other, _)| other == name) {
            return Err(format!(
                "--cluster {name} is there twice: give one of them another name"
            ));
        }
        all.push((name.clone(), own));
    }
    let reads = |(_, own): &&(String, Vec<PathBuf>)| own.iter().any(|path| path == Path::new("-"));
    if all.iter().filter(reads).count() > 1 {
        return Err("-f - stands behind two clusters: standard input can be the manifests of one".to_owned());
    }
    Ok(Places::Several(all))
}

impl Networks {
    /// Those of the cluster of this number among several, which no other has.
    pub(crate) fn of(number: u8) -> Self {
        let v4 = |octet: u8| Ipv4Net::new_assert(Ipv4Addr::new(10, octet + number, 0, 0), 16);
        let v6 = |group: u16, bits: u8| {
            let address = Ipv6Addr::new(0xfd00, 0x10, group + u16::from(number), 0, 0, 0, 0, 0);
            Ipv6Net::new_assert(address, bits)
        };
        Self {
            pods: (v4(244), v6(0x244, 64)),
            services: (v4(96), v6(0x96, 112)),
        }
    }
}

/// The place of each cluster, and its networks. `flat`: pods of all reach each other; `overlapping`: all have the same
/// networks. There are at most [`MOST`] names. The same names have the same places in whatever order they are typed: what
/// clusters say of each other in files holds addresses.
pub(crate) fn among(names: &[String], flat: bool, overlapping: bool) -> Vec<(Among, Networks)> {
    let mut sorted: Vec<&String> = names.iter().collect();
    sorted.sort();
    let numbers: BTreeMap<&String, u8> = sorted.into_iter().zip(0..).collect();
    let all: Vec<(u8, &String, Networks)> = names
        .iter()
        .map(|name| (numbers[name], name))
        .map(|(number, name)| (number, name, Networks::of(if overlapping { 0 } else { number })))
        .collect();
    let others = |own: u8| {
        let others = all.iter().filter(move |(number, ..)| flat && *number != own);
        others.flat_map(|(_, _, net)| [net.pods.0.into(), net.pods.1.into()])
    };
    let place = |(number, name, networks): &(u8, &String, Networks)| {
        let among = Among {
            number: *number,
            names: names.to_vec(),
            network: if flat { FLAT.to_owned() } else { (*name).clone() },
            flat: others(*number).collect(),
        };
        (among, *networks)
    };
    all.iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use ipnet::IpNet;

    use super::*;
    use crate::args::{Cli, Verb};
    use crate::up::{PODS, SERVICES};

    fn read(line: &str) -> Result<Places, String> {
        let cli =
            Cli::try_parse_from(std::iter::once("weft").chain(line.split(' '))).map_err(|error| error.to_string())?;
        match cli.verb {
            Verb::Up(args) => Ok(args.places),
            other => Err(format!("{other:?}")),
        }
    }

    fn several(clusters: &[(&str, &[&str])]) -> Places {
        let paths = |paths: &[&str]| paths.iter().map(PathBuf::from).collect();
        Places::Several(
            clusters
                .iter()
                .map(|(name, own)| ((*name).to_owned(), paths(own)))
                .collect(),
        )
    }

    #[test]
    fn each_cluster_has_the_manifests_that_follow_its_name() {
        assert_eq!(
            read("up --cluster a -f x -f y --cluster=b -fz --flat"),
            Ok(several(&[("a", &["x", "y"]), ("b", &["z"])]))
        );
        assert_eq!(
            read("up --detach --cluster b -R -f x --cluster a --filename y --leaf-lifetime 1h"),
            Ok(several(&[("b", &["x"]), ("a", &["y"])]))
        );
        assert_eq!(read("up -f x -f y"), Ok(Places::One(vec!["x".into(), "y".into()])));
    }

    #[track_caller]
    fn refused(line: &str, want: &[&str]) {
        let said = read(line).expect_err(line);
        for part in want {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_fix() {
        refused(
            "up --cluster a --cluster b -f x",
            &["--cluster a has no manifests", "-f PATH"],
        );
        refused("up --cluster a -f x --cluster b", &["--cluster b has no manifests"]);
        refused("up --cluster a -f x --cluster a -f y", &["--cluster a is there twice"]);
        refused(
            "up -f x --cluster a -f y --cluster b -f z",
            &["-f x stands before --cluster a"],
        );
        refused("up --cluster a -f x", &["2 to 8", "--name"]);
        refused("up --cluster A -f x --cluster b -f y", &["'A'", "a-z"]);
        refused("up --cluster a -f - --cluster b -f -", &["standard input"]);
        let nine: String = (0..9).map(|i| format!(" --cluster c{i} -f x")).collect();
        refused(&format!("up{nine}"), &["2 to 8", "9"]);
    }

    #[test]
    fn flags_that_only_one_cluster_can_have_are_refused_beside_clusters_and_the_reverse() {
        for flag in [
            "--name n",
            "--pod-cidr 10.0.0.0/16",
            "--service-cidr 10.1.0.0/16",
            "--trust-domain d",
        ] {
            let name = flag.split(' ').next().unwrap();
            refused(
                &format!("up --cluster a -f x --cluster b -f y {flag}"),
                &[name, "--cluster", "cannot be used"],
            );
            assert!(read(&format!("up -f x {flag}")).is_ok(), "{flag}");
        }
        for flag in ["--flat", "--overlapping-networks"] {
            refused(&format!("up -f x {flag}"), &["--cluster"]);
        }
        refused(
            "up --cluster a -f x --cluster b -f y --flat --overlapping-networks",
            &["--flat", "--overlapping-networks", "cannot be used"],
        );
    }

    fn names() -> Vec<String> {
        (0..MOST).map(|i| format!("c{i}")).collect()
    }

    #[test]
    fn no_two_clusters_have_networks_that_overlap_unless_that_is_asked_for() {
        let all = among(&names(), false, false);
        let both = |(v4, v6): (Ipv4Net, Ipv6Net)| [IpNet::from(v4), IpNet::from(v6)];
        let nets = all
            .iter()
            .flat_map(|(_, networks)| [both(networks.pods), both(networks.services)].concat());
        let nets: Vec<IpNet> = nets.chain(weft_local::net::wire::networks()).collect();
        for (i, net) in nets.iter().enumerate() {
            let apart = |other: &IpNet| !other.contains(net) && !net.contains(other);
            assert!(nets[i + 1..].iter().all(apart), "{net} of {nets:?}");
        }
        let same = among(&names(), false, true);
        assert!(same.iter().all(|(_, networks)| *networks == same[0].1));
    }

    #[test]
    fn the_same_names_have_the_same_places_in_whatever_order_they_are_typed() {
        let places = |names: [&str; 3]| -> BTreeMap<String, (u8, Networks)> {
            let names = names.map(str::to_owned);
            let all = among(&names, false, false);
            let each = names.into_iter().zip(all);
            each.map(|(name, (among, networks))| (name, (among.number, networks)))
                .collect()
        };
        let one = places(["east", "west", "north"]);
        assert_eq!(one, places(["west", "north", "east"]));
        assert_eq!(one["east"], (0, Networks::of(0)));
        assert_eq!(one["north"].0, 1);
    }

    #[test]
    fn the_first_cluster_has_the_networks_of_a_mesh_that_is_alone() {
        let texts = |(v4, v6): (Ipv4Net, Ipv6Net)| [v4.to_string(), v6.to_string()];
        let first = Networks::of(0);
        assert_eq!(texts(first.pods), PODS);
        assert_eq!(texts(first.services), SERVICES);
    }

    #[test]
    fn a_flat_network_is_one_of_all_and_otherwise_each_has_its_own() {
        let flat = among(&names(), true, false);
        assert!(
            flat.iter()
                .all(|(among, _)| among.network == FLAT && among.flat.len() == 2 * (MOST - 1))
        );
        let own: IpNet = flat[2].1.pods.0.into();
        assert!(!flat[2].0.flat.contains(&own) && flat[3].0.flat.contains(&own));
        let apart = among(&names(), false, false);
        assert!(apart.iter().all(|(among, _)| among.flat.is_empty()));
        assert_eq!(apart[1].0.network, "c1");
    }
}
