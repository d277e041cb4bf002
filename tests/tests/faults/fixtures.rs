//! The fixtures themselves, asked byte for byte: each fault is what it says, and the token server gives to whom it should.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use wharf_tests::{
    FakeServer, Fault, FaultProxy, Reply, TokenOptions, TokenServer,
    fault_proxy::Splice,
    token_server::{Grant, Scope},
};

/// Sends these bytes and gives what comes back, and how it ended.
async fn exchange(address: &str, bytes: impl AsRef<[u8]>) -> (String, Ended) {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(bytes.as_ref()).await.expect("sends");
    let mut answer = Vec::new();
    let ended = match timeout(Duration::from_millis(200), stream.read_to_end(&mut answer)).await {
        Ok(Ok(_)) => Ended::Closed,
        Ok(Err(_)) => Ended::Reset,
        Err(_) => Ended::Open,
    };
    (String::from_utf8(answer).expect("text"), ended)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    Closed,
    Reset,
    Open,
}

#[tokio::test]
async fn every_fault_is_what_it_says() {
    let server = FakeServer::start(|request| match request.header("range") {
        Some(_) => Reply::new(206, &[("Content-Range", "bytes 2-9/10")], "cdefghij"),
        None => Reply::new(200, &[("X", "y")], "abcdefghij"),
    })
    .await;
    let (whole, part) = ("GET /a HTTP/1.1\r\n\r\n", "GET /a HTTP/1.1\r\nRange: bytes=2-\r\n\r\n");
    let mut cases = JoinSet::new();
    let drip = Fault::Drip(3, Duration::from_millis(1));
    for (request, fault, said, body, ended) in [
        // The connection stays for the next request.
        (whole, None, "Content-Length: 10", "abcdefghij", Ended::Open),
        (whole, Some(Fault::Answer(Reply::new(418, &[], "tea"))), "418", "tea", Ended::Closed),
        (whole, Some(Fault::Header("X", Some("z".into()))), "X: z", "abcdefghij", Ended::Open),
        (whole, Some(Fault::ResetAnswer(4)), "Content-Length: 10", "abcd", Ended::Reset),
        (whole, Some(Fault::LoseAnswer), "", "", Ended::Reset),
        (whole, Some(Fault::Stall(4)), "Content-Length: 10", "abcd", Ended::Open),
        (whole, Some(Fault::Truncate(4)), "Content-Length: 10", "abcd", Ended::Closed),
        (whole, Some(Fault::Shorten(4)), "Content-Length: 6", "abcdef", Ended::Closed),
        (whole, Some(Fault::Lengthen(4)), "Content-Length: 14", "abcdefghij!!!!", Ended::Open),
        (whole, Some(Fault::Flip(3)), "Content-Length: 10", "abceefghij", Ended::Open),
        (whole, Some(drip), "Content-Length: 10", "abcdefghij", Ended::Open),
        (part, Some(Fault::IgnoreRange), "200", "abcdefghij", Ended::Open),
        (part, Some(Fault::Splice(Splice::First)), "bytes 1-9/10", "cdefghij", Ended::Open),
        (part, None, "bytes 2-9/10", "cdefghij", Ended::Open),
    ] {
        let address = server.address();
        cases.spawn(async move {
            let plan = fault.clone();
            let proxy = FaultProxy::start(&address, move |_| plan.clone()).await;
            let (answer, how) = exchange(&proxy.address(), request).await;
            let (head, came) = answer.split_once("\r\n\r\n").unwrap_or_default();
            assert!(head.contains(said), "{fault:?}: {answer}");
            assert_eq!((came, how), (body, ended), "{fault:?}");
            let happened: Vec<&str> = fault.iter().map(Fault::kind).collect();
            assert_eq!(proxy.faults(), happened);
            if !matches!(fault, Some(Fault::Answer(_))) {
                let served = (proxy.served("/a"), proxy.served("/b"));
                assert_eq!(served, (body.len() as u64, 0), "{fault:?}");
            }
            proxy.calm();
            let (answer, _) = exchange(&proxy.address(), whole).await;
            assert!(answer.ends_with("abcdefghij"), "{answer}");
        });
    }
    // Each waits to see that nothing more comes, so that they wait together.
    while let Some(ended) = cases.join_next().await {
        ended.expect("no panic");
    }
}

#[tokio::test]
async fn what_is_sent_is_counted_and_cut() {
    let server =
        FakeServer::start(|request| Reply::new(201, &[], format!("{} bytes", request.body.len()))).await;
    let request = "PUT /a HTTP/1.1\r\nContent-Length: 10\r\n\r\nabcdefghij";
    let proxy =
        FaultProxy::start(&server.address(), |asked| (asked.nth == 0).then_some(Fault::ResetRequest(4)))
            .await;
    assert_eq!(exchange(&proxy.address(), request).await, (String::new(), Ended::Reset));
    assert_eq!(proxy.taken("/a"), 4);
    let (answer, _) = exchange(&proxy.address(), request).await;
    assert!(answer.ends_with("10 bytes"), "{answer}");
    assert_eq!((proxy.taken("/a"), proxy.passed().len(), proxy.faults().len()), (14, 2, 1));
    // Two of them on one connection.
    let (answers, _) = exchange(&proxy.address(), request.repeat(2)).await;
    assert_eq!(answers.matches("10 bytes").count(), 2, "{answers}");
}

/// Asks a token server, and gives the status and the answer.
async fn ask(tokens: &TokenServer, request: String) -> (u16, Value) {
    let (answer, _) = exchange(&tokens.address().to_string(), request).await;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    (status, serde_json::from_str(body).unwrap_or_default())
}

fn get(query: &str, user: Option<&str>) -> String {
    let basic = user.map(|user| format!("Authorization: Basic {}\r\n", STANDARD.encode(user)));
    format!("GET /token?{query} HTTP/1.1\r\n{}\r\n", basic.unwrap_or_default())
}

fn post(form: &str) -> String {
    format!("POST /token HTTP/1.1\r\nContent-Length: {}\r\n\r\n{form}", form.len())
}

#[tokio::test]
async fn tokens_are_given_to_whom_they_are_for() {
    let options = TokenOptions::new()
        .with_account("u", "p+ä&=", &[Scope::repository("a/*", &["pull", "push"])])
        .with_anonymous(&[Scope::repository("open", &["pull"])]);
    let tokens = TokenServer::start(options).await;
    let authority = tokens.authority();
    let refresh = authority.refresh_token("u");
    let both = "service=wharf-tests&scope=repository:a/b:pull,push&scope=repository:open:pull";
    let password = format!("{both}&grant_type=password&username=u&password=p%2B%C3%A4%26%3D&client_id=x");
    let refreshing = format!("{both}&grant_type=refresh_token&refresh_token={refresh}");
    let (mine, open) = (Scope::repository("a/b", &["pull", "push"]), Scope::repository("open", &["pull"]));
    for (request, grant, allowed) in [
        (get(both, None), Grant::Anonymous, Some(&open)),
        (get(both, Some("u:p+ä&=")), Grant::Basic, Some(&mine)),
        (get(both, Some("u:wrong")), Grant::Basic, None),
        (post(&password), Grant::Password, Some(&mine)),
        (post(&password.replace("%26", "")), Grant::Password, None),
        (post(&refreshing), Grant::RefreshToken, Some(&mine)),
        (post(&format!("{refreshing}x")), Grant::RefreshToken, None),
        (post(both), Grant::Unknown, None),
    ] {
        let (status, answer) = ask(&tokens, request.clone()).await;
        assert_eq!(status, if allowed.is_some() { 200 } else { 401 }, "{request}");
        assert_eq!(tokens.requests().last().map(|request| request.grant), Some(grant), "{request}");
        let token = answer["token"].as_str().unwrap_or_default();
        for scope in [&mine, &open] {
            let is_allowed = authority.allows(token, std::slice::from_ref(scope));
            assert_eq!(is_allowed, allowed == Some(scope), "{request}: {scope}");
        }
        authority.expire_all();
        assert!(!authority.allows(token, &[]), "{request}");
    }
    let elsewhere = get("service=other&scope=repository:open:pull", None);
    assert_eq!(ask(&tokens, elsewhere).await.0, 400);
    let offline = get(&format!("{both}&offline_token=true"), Some("u:p+ä&="));
    let (_, answer) = ask(&tokens, offline).await;
    let refresh = answer["refresh_token"].as_str().expect("one to keep");
    assert!(authority.secrets().contains(&refresh.to_owned()));
    assert_eq!(answer["expires_in"], 300);

    let by_get = TokenServer::start(TokenOptions::new().with_account("u", "p", &[]).without_oauth(404)).await;
    let form = "service=wharf-tests&grant_type=password&username=u&password=p";
    assert_eq!(ask(&by_get, post(form)).await.0, 404);
    assert_eq!(ask(&by_get, get("service=wharf-tests", Some("u:p"))).await.0, 200);
}
