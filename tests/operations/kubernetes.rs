//! The manifests of the page: they are YAML, and their times agree.

use yaml_rust2::{Yaml, YamlLoader};

use crate::page::english;

/// All documents of the page's blocks of YAML.
fn manifests() -> Vec<Yaml> {
    let sections = english();
    let blocks = sections.iter().flat_map(|section| &section.blocks);
    let blocks = blocks.filter(|block| block.info.starts_with("yaml"));
    blocks.flat_map(|block| YamlLoader::load_from_str(&block.text).expect("YAML")).collect()
}

/// The manifest of this kind.
fn of_kind(kind: &str) -> Yaml {
    let found = manifests().into_iter().find(|manifest| manifest["kind"].as_str() == Some(kind));
    found.unwrap_or_else(|| panic!("no {kind}"))
}

/// The seconds that an argument of the container has.
fn seconds(args: &Yaml, name: &str) -> i64 {
    let words: Vec<_> =
        args.as_vec().expect("arguments").iter().map(|word| word.as_str().unwrap()).collect();
    let at = words.iter().position(|word| *word == name).unwrap_or_else(|| panic!("no {name}"));
    words[at + 1].parse().expect("seconds")
}

#[test]
fn each_manifest_has_a_kind_and_a_name() {
    for manifest in manifests() {
        for part in ["apiVersion", "kind"] {
            assert!(manifest[part].as_str().is_some(), "{part} of {manifest:?}");
        }
        assert!(manifest["metadata"]["name"].as_str().is_some(), "the name of {manifest:?}");
    }
}

/// The pod stops after all nodes have learned that it ends; then its requests have their grace; SIGKILL comes after that.
#[test]
fn the_times_of_a_pod_agree() {
    let pod = &of_kind("Deployment")["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let (lame_duck, drain) =
        (seconds(&container["args"], "--lame-duck"), seconds(&container["args"], "--grace"));
    let until_killed = pod["terminationGracePeriodSeconds"].as_i64().expect("a time");
    assert!(until_killed > lame_duck + drain, "{until_killed} > {lame_duck} + {drain}");
    let port = container["ports"][0]["containerPort"].as_i64().expect("a port");
    for (probe, path) in [("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")] {
        let asked = &container[probe]["httpGet"];
        assert_eq!((asked["path"].as_str(), asked["port"].as_i64()), (Some(path), Some(port)));
    }
    assert_eq!(of_kind("Service")["spec"]["ports"][0]["targetPort"].as_i64(), Some(port));
}

#[test]
fn the_service_finds_the_pods() {
    let (deployment, service) = (of_kind("Deployment"), of_kind("Service"));
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    assert_eq!(&service["spec"]["selector"], labels);
    assert_eq!(&deployment["spec"]["selector"]["matchLabels"], labels);
}
