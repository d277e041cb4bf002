//! Credential helpers: scripts that work, are missing, fail, hang and flood; and docker's file around them.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::PathBuf,
};

use wharf_remotes::credentials::{Audience, AuthFile, AuthFiles, Environment, Helper, HelperOptions, Secret};

use super::*;

/// A home directory with docker's file, and a directory of helpers.
struct Home {
    dir: tempfile::TempDir,
    warnings: Arc<Mutex<Vec<String>>>,
}

impl Home {
    fn new(config: &str) -> Self {
        let home = Self { dir: tempfile::tempdir().expect("temporary directory"), warnings: Arc::default() };
        for directory in [".docker", "bin"] {
            fs::create_dir(home.dir.path().join(directory)).expect("creates");
        }
        if !config.is_empty() {
            fs::write(home.config(), config).expect("writes");
        }
        home
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join(".docker/config.json")
    }

    fn read(&self) -> String {
        fs::read_to_string(self.config()).expect("reads")
    }

    /// Puts a helper there; `$DIR` is the home directory.
    fn with_helper(self, name: &str, script: &str) -> Self {
        let path = self.dir.path().join("bin").join(format!("docker-credential-{name}"));
        let script = script.replace("$DIR", &self.dir.path().display().to_string());
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("is made executable");
        self
    }

    fn environment(&self) -> Environment {
        let path = |name: &str| self.dir.path().join(name);
        Environment::of([("HOME", path("")), ("PATH", path("bin"))])
    }

    fn options(&self) -> HelperOptions {
        HelperOptions::new(&self.environment()).with_time_limit(Duration::from_secs(20))
    }

    fn files(&self) -> AuthFiles {
        let warnings = Arc::clone(&self.warnings);
        AuthFiles::new(&self.environment())
            .with_helpers(self.options())
            .with_warnings(move |warning| warnings.lock().expect("no panic").push(warning.to_owned()))
    }

    async fn find(&self, host: &str) -> Result<Option<Credential>> {
        bounded(self.files().credential(&Audience::new(host))).await
    }

    fn file(&self) -> AuthFile {
        AuthFile::of(&self.environment()).expect("a file").with_helpers(self.options())
    }
}

/// A helper with a directory for a store: what is stored is kept in a file of the server's name.
const KEEPER: &str = r#"
mkdir -p $DIR/kept
case $1 in
get) read -r server; file=$(echo "$server" | tr '/:' '__')
     cat "$DIR/kept/$file" 2>/dev/null || { echo "credentials not found in native keychain"; exit 1; } ;;
store) message=$(cat); server=$(echo "$message" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/')
     echo "$message" > "$DIR/kept/$(echo "$server" | tr '/:' '__')" ;;
erase) read -r server; rm "$DIR/kept/$(echo "$server" | tr '/:' '__')" ;;
list) echo '{"https://index.docker.io/v1/":"u","r.example":"v"}' ;;
esac"#;

#[tokio::test]
async fn helpers_that_work() {
    let token = r#"cat >/dev/null; echo '{"ServerURL":"x","Username":"<token>","Secret":"canary-51c2"}'"#;
    let asks = r#"read -r server; echo "{\"Username\":\"$1 $server\",\"Secret\":\"p\"}""#;
    let home = Home::new(
        r#"{"credHelpers":{"t.example":"token","e.example":"empty"},"credsStore":"asks","auths":{"e.example":{"auth":"dTpw"}}}"#,
    )
    .with_helper("token", token)
    .with_helper("asks", asks)
    .with_helper("empty", "echo 'credentials not found in native keychain'; exit 1");
    for (host, expected) in [
        ("t.example", Credential::identity_token(CANARY)),
        ("other.example:5000", Credential::password("get other.example:5000", "p")),
        ("registry-1.docker.io", Credential::password("get https://index.docker.io/v1/", "p")),
        ("e.example", Credential::password("u", "p")),
    ] {
        assert_eq!(home.find(host).await.expect("finds"), Some(expected), "{host}");
    }
    assert!(home.warnings.lock().expect("no panic").is_empty());
}

#[tokio::test]
async fn a_missing_helper_is_a_warning_and_the_pull_goes_on() {
    let server = FakeServer::start(manifest).await;
    let wants = FakeServer::start(|request| match request.header("authorization") {
        Some(_) => manifest(request),
        None => challenge("Basic realm=x"),
    })
    .await;
    let home = Home::new(r#"{"credsStore":"gone"}"#);
    let settings = || settings().with_credentials(sources(home.files()));
    resolve(&server, settings()).await.expect("resolves");
    assert!(home.warnings.lock().expect("no panic").is_empty(), "nobody asked for credentials");
    let error = resolve(&wants, settings()).await.expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    let warnings = home.warnings.lock().expect("no panic").clone();
    assert!(warnings.len() == 1 && warnings[0].contains("docker-credential-gone"), "{warnings:?}");
}

#[tokio::test]
async fn helpers_that_fail_are_named() {
    for (script, said) in [
        ("echo 'the vault is sealed'; exit 1", "the vault is sealed"),
        ("echo 'on standard error' >&2; exit 3", "on standard error"),
        ("exit 1", "exit status: 1"),
        ("echo canary-51c2", "not the JSON"),
        (r#"echo '{"Secret":"canary-51c2"}'; exit 1"#, "exit status: 1"),
        (r#"echo '{"Username":1,"Secret":"canary-51c2"}'"#, "not the JSON"),
        ("kill -9 $$", "signal: 9"),
        ("trap '' PIPE; yes canary-51c2; while :; do sleep 1; done", "more than 65536 bytes"),
        ("yes canary-51c2", "more than 65536 bytes"),
        ("yes canary-51c2 >&2", "more than 65536 bytes"),
    ] {
        let home = Home::new(r#"{"credHelpers":{"r.example":"bad"}}"#).with_helper("bad", script);
        let error = home.find("r.example").await.expect_err(script);
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{}", error.report());
        let report = error.report();
        assert!(report.contains("docker-credential-bad") && report.contains(said), "{report}");
        assert!(is_silent(&error), "{error:?}");
        // It is nothing to other registries.
        assert_eq!(home.find("other.example").await.expect("is not asked"), None);
    }
}

#[tokio::test]
async fn a_helper_that_hangs_is_killed_with_what_it_started() {
    let script = "sleep 600 & echo $! > $DIR/pid; wait";
    let home = Home::new(r#"{"credsStore":"slow"}"#).with_helper("slow", script);
    let limit = Duration::from_secs(2);
    let files = home.files().with_helpers(home.options().with_time_limit(limit));
    let error = bounded(files.credential(&Audience::new("r.example"))).await.expect_err("hangs");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{}", error.report());
    assert!(error.report().contains("docker-credential-slow"), "{}", error.report());
    let pid = fs::read_to_string(home.dir.path().join("pid")).expect("it had started").trim().to_owned();
    let is_gone = || match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    };
    bounded(async {
        while !is_gone() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;

    // One that leaves somebody behind who keeps its outputs open has answered all the same.
    let script = r#"sleep 600 & echo '{"Username":"u","Secret":"p"}'; echo $! > $DIR/pid"#;
    let home = Home::new(r#"{"credsStore":"daemon"}"#).with_helper("daemon", script);
    assert_eq!(home.find("r.example").await.expect("finds"), Some(Credential::password("u", "p")));
    let pid = fs::read_to_string(home.dir.path().join("pid")).expect("it had started");
    std::process::Command::new("kill").arg(pid.trim()).status().expect("ends it");
}

#[tokio::test]
async fn hostile_names_and_hosts_reach_no_program() {
    for name in ["../../evil", "a/b", "a\\nb", "$(touch x)", "A"] {
        let config = format!(r#"{{"credHelpers":{{"r.example":"{name}"}}}}"#);
        let home = Home::new(&config).with_helper("evil", "touch $DIR/ran");
        fs::copy(home.dir.path().join("bin/docker-credential-evil"), home.dir.path().join("evil"))
            .expect("copies");
        let error = home.find("r.example").await.expect_err(name);
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{}", error.report());
        assert!(!home.dir.path().join("ran").exists(), "{name}");
    }
    let home = Home::new("").with_helper("good", "touch $DIR/ran; cat >/dev/null; echo '{}'");
    let helper = Helper::find("good", &home.options()).expect("a name").expect("is there");
    for host in ["r.example\nhttps://other", "", "a b", "a\0"] {
        assert_eq!(
            helper.get(host).await.expect_err("no host").kind(),
            ErrorKind::InvalidArgument,
            "{host:?}"
        );
        assert!(!home.dir.path().join("ran").exists(), "{host:?}");
    }
    assert_eq!(helper.get("r.example").await.expect("an answer of nothing"), None);
    assert!(home.dir.path().join("ran").exists());
}

#[tokio::test]
async fn files_that_are_wrong() {
    let home = Home::new(r#"{"auths":{"r.example":"canary-51c2"}}"#);
    assert_eq!(home.find("r.example").await.expect("nobody named it"), None);
    let warnings = home.warnings.lock().expect("no panic").join("\n");
    assert!(warnings.contains("config.json") && !warnings.contains(CANARY), "{warnings}");

    let named = AuthFiles::only(home.config(), &home.environment());
    let error = named.credential(&Audience::new("r.example")).await.expect_err("named");
    assert!(error.kind() == ErrorKind::InvalidArgument && is_silent(&error), "{error:?}");
    let named = AuthFiles::only(home.dir.path().join("none"), &home.environment());
    let error = named.credential(&Audience::new("r.example")).await.expect_err("named");
    assert!(error.kind() == ErrorKind::NotFound && error.report().contains("/none"), "{}", error.report());
    fs::remove_file(home.config()).expect("removes");
    assert_eq!(home.find("r.example").await.expect("there need not be one"), None);
}

#[tokio::test]
async fn credentials_are_kept_in_the_file_and_found_again() {
    let home = Home::new("{\"z\":[1,  2],\"auths\":{\"other.example\":{\"auth\":\"dTpw\"}},\"a\":\"b\"}");
    fs::set_permissions(home.config(), fs::Permissions::from_mode(0o644)).expect("sets");
    let file = home.file();
    for (host, credential) in [
        ("r.example", user()),
        ("docker.io", Credential::identity_token(CANARY)),
        ("r.example", Credential::password("again", "p:w")),
    ] {
        assert_eq!(file.store(host, &credential).await.expect("stores"), None);
        assert_eq!(home.find(host).await.expect("finds"), Some(credential));
        let mode = fs::metadata(home.config()).expect("is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    let text = home.read();
    assert!(text.contains("\"z\": [1,  2]") && text.contains("\"https://index.docker.io/v1/\""), "{text}");
    assert!(file.erase("https://r.example/").await.expect("erases"));
    assert!(!file.erase("r.example").await.expect("erases"));
    assert_eq!(home.find("r.example").await.expect("finds"), None);
    assert_eq!(home.find("other.example").await.expect("finds"), Some(Credential::password("u", "p")));
    assert_eq!(file.erase_all().await.expect("erases"), ["docker.io", "other.example"]);
    assert!(home.read().contains("\"a\": \"b\""), "{}", home.read());
    let entries = fs::read_dir(home.dir.path().join(".docker")).expect("lists");
    assert_eq!(entries.count(), 1, "nothing is left beside it");

    // A link to where somebody keeps such files stays one.
    let kept = home.dir.path().join("kept.json");
    fs::rename(home.config(), &kept).expect("moves");
    symlink(&kept, home.config()).expect("links");
    file.store("r.example", &user()).await.expect("stores");
    assert!(fs::symlink_metadata(home.config()).expect("is there").is_symlink());
    assert_eq!(home.find("r.example").await.expect("finds"), Some(user()));

    fs::write(&kept, "[\"canary-51c2\"]").expect("writes");
    let error = file.store("r.example", &user()).await.expect_err("no such file");
    assert!(error.kind() == ErrorKind::InvalidArgument && is_silent(&error), "{error:?}");
    assert_eq!(home.read(), "[\"canary-51c2\"]");
}

#[tokio::test]
async fn credentials_are_kept_by_helpers() {
    let home = Home::new(
        r#"{"credHelpers":{"own.example":"own"},"credsStore":"all","auths":{"r.example":{"auth":"dTpw"}}}"#,
    )
    .with_helper("own", KEEPER)
    .with_helper("all", KEEPER);
    let file = home.file();
    for (host, name) in [("r.example", "all"), ("own.example", "own"), ("docker.io", "all")] {
        assert_eq!(home.file().store(host, &user()).await.expect("stores").as_deref(), Some(name));
        assert_eq!(home.find(host).await.expect("finds"), Some(user()), "{host}");
    }
    let text = home.read();
    assert!(!text.contains("dTpw") && !text.contains(CANARY) && text.contains("\"r.example\": {}"), "{text}");
    assert!(file.erase("r.example").await.expect("erases"));
    assert_eq!(home.find("r.example").await.expect("finds"), None);
    assert!(!file.erase("r.example").await.expect("erases"));
    file.store("r.example", &user()).await.expect("stores");
    assert_eq!(file.erase_all().await.expect("erases"), ["docker.io", "own.example", "r.example"]);
    assert_eq!(fs::read_dir(home.dir.path().join("kept")).expect("lists").count(), 0);

    let gone = Home::new(r#"{"credsStore":"gone"}"#);
    let error = gone.file().store("r.example", &user()).await.expect_err("is not installed");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{}", error.report());
    // A helper that quotes what it was given is not quoted.
    let tells = Home::new(r#"{"credsStore":"tells"}"#)
        .with_helper("tells", r#"echo "no room for $(sed 's/.*Secret":"//;s/"}//')"; exit 1"#);
    let error = tells.file().store("r.example", &user()).await.expect_err("fails");
    assert!(error.report().contains("docker-credential-tells") && is_silent(&error), "{error:?}");
    assert!(!format!("{:?}", Secret::from(CANARY)).contains(CANARY));
}
