//! A real Chromium, driven by what a person does: WebDriver, spoken to chromedriver in plain requests.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use super::{soon, until};

/// A driver, and the windows that it has opened. Gone when it is dropped.
pub struct Browser {
    driver: Child,
    base: String,
    http: reqwest::Client,
}

/// One window, with a profile of its own.
pub struct Window<'a> {
    browser: &'a Browser,
    session: String,
}

/// How a window is.
#[derive(Clone, Copy)]
pub struct Look {
    pub width: u32,
    pub height: u32,
    pub is_dark: bool,
    pub has_script: bool,
}

impl Look {
    pub const WIDE: Look = Look { width: 1280, height: 900, is_dark: false, has_script: true };
    pub const NARROW: Look = Look { width: 320, height: 900, ..Look::WIDE };
}

/// How long an answer may take: of a node, or of a driver that starts a browser.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// A client for requests on this machine.
pub fn client() -> reqwest::Client {
    // Another test may have done so already.
    rustls::crypto::ring::default_provider().install_default().ok();
    reqwest::Client::builder().no_proxy().timeout(ANSWER_WITHIN).build().unwrap()
}

impl Browser {
    /// Starts chromedriver on a port that it chooses.
    pub async fn start() -> Browser {
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromedriver is installed: `tests/run` installs it (Debian: chromium-driver)");
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = loop {
            let line = lines.next().expect("chromedriver says where it listens").unwrap();
            if let Some((_, rest)) = line.split_once("successfully on port ") {
                break rest.trim_end_matches('.').to_owned();
            }
        };
        // What it goes on to say is of no interest, and must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let http = client();
        Browser { driver, base: format!("http://127.0.0.1:{port}"), http }
    }

    async fn ask(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Value {
        let value = self.answer(method, path, body).await;
        assert!(value["error"].is_null(), "{path}: {value}");
        value
    }

    /// What the driver answers, an error among it.
    async fn answer(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Value {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["value"].clone()
    }

    pub async fn window(&self, look: Look) -> Window<'_> {
        let mut arguments = vec![
            "--headless=new".to_owned(),
            "--no-sandbox".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--hide-scrollbars".to_owned(),
            // A window cannot be as narrow as a telephone: the page is, by this.
            format!("--window-size={},{}", look.width.max(500), look.height),
        ];
        if look.is_dark {
            arguments.push("--blink-settings=preferredColorScheme=0".to_owned());
        }
        let mut options = json!({ "args": arguments });
        if !look.has_script {
            options["prefs"] = json!({ "profile.managed_default_content_settings.javascript": 2 });
        }
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let made = self.ask(reqwest::Method::POST, "/session", Some(wanted)).await;
        let window = Window { browser: self, session: made["sessionId"].as_str().unwrap().to_owned() };
        let metrics = json!({ "width": look.width, "height": look.height, "deviceScaleFactor": 1, "mobile": false });
        window.chrome("Emulation.setDeviceMetricsOverride", metrics).await;
        let scheme = if look.is_dark { "dark" } else { "light" };
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        window.chrome("Emulation.setEmulatedMedia", features).await;
        window
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its windows have closed themselves: it does not always end theirs when it ends.
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.driver.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).ok();
        self.driver.wait().ok();
    }
}

impl Drop for Window<'_> {
    /// Ends the browser of this window, and waits until the driver has answered: without an executor, since a test may
    /// end with a panic.
    fn drop(&mut self) {
        let address = self.browser.base.trim_start_matches("http://");
        let Ok(mut driver) = TcpStream::connect(address) else { return };
        driver.set_read_timeout(Some(ANSWER_WITHIN)).ok();
        let head = format!("DELETE /session/{} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n", self.session);
        if driver.write_all(head.as_bytes()).is_ok() {
            let _answer = driver.read(&mut [0; 1024]);
        }
    }
}

impl Window<'_> {
    async fn ask(&self, method: reqwest::Method, path: &str, body: Option<Value>) -> Value {
        self.browser.ask(method, &format!("/session/{}{path}", self.session), body).await
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        self.ask(reqwest::Method::POST, path, Some(body)).await
    }

    /// Opens a further tab with this page, which is the one in front from then on.
    pub async fn open_tab(&self, url: &str) {
        let made = self.post("/window/new", json!({ "type": "tab" })).await;
        self.post("/window", json!({ "handle": made["handle"] })).await;
        self.open(url).await;
    }

    /// A command of Chromium's own protocol.
    pub async fn chrome(&self, command: &str, parameters: Value) -> Value {
        self.post("/goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    pub async fn open(&self, url: &str) {
        self.post("/url", json!({ "url": url })).await;
    }

    /// What a script in the page answers, for tests that look at more than its text.
    pub async fn script(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({ "script": script, "args": [] })).await
    }

    async fn element(&self, selector: &str) -> String {
        let found = self.post("/element", json!({ "using": "css selector", "value": selector })).await;
        found.as_object().unwrap().values().next().unwrap().as_str().unwrap().to_owned()
    }

    /// What a person reads of an element.
    pub async fn text(&self, selector: &str) -> String {
        let element = self.element(selector).await;
        let text = self.ask(reqwest::Method::GET, &format!("/element/{element}/text"), None).await;
        text.as_str().unwrap().to_owned()
    }

    /// The same; `None` where there is no such element, or where it went while it was read.
    async fn text_now(&self, selector: &str) -> Option<String> {
        let (post, session) = (reqwest::Method::POST, &self.session);
        let wanted = json!({ "using": "css selector", "value": selector });
        let found = self.browser.answer(post, &format!("/session/{session}/element"), Some(wanted)).await;
        let element = found.as_object()?.values().next()?.as_str()?.to_owned();
        let path = format!("/session/{session}/element/{element}/text");
        self.browser.answer(reqwest::Method::GET, &path, None).await.as_str().map(str::to_owned)
    }

    pub async fn click(&self, selector: &str) {
        let element = self.element(selector).await;
        self.post(&format!("/element/{element}/click"), json!({})).await;
    }

    pub async fn write(&self, selector: &str, text: &str) {
        let element = self.element(selector).await;
        self.post(&format!("/element/{element}/value"), json!({ "text": text })).await;
    }

    /// An attribute of an element, which may have none.
    pub async fn attribute(&self, selector: &str, name: &str) -> Option<String> {
        let element = self.element(selector).await;
        let path = format!("/element/{element}/attribute/{name}");
        self.ask(reqwest::Method::GET, &path, None).await.as_str().map(str::to_owned)
    }

    /// How an element looks.
    pub async fn css(&self, selector: &str, property: &str) -> String {
        let element = self.element(selector).await;
        let value = self.ask(reqwest::Method::GET, &format!("/element/{element}/css/{property}"), None).await;
        value.as_str().unwrap().to_owned()
    }

    pub async fn url(&self) -> String {
        self.ask(reqwest::Method::GET, "/url", None).await.as_str().unwrap().to_owned()
    }

    pub async fn title(&self) -> String {
        self.ask(reqwest::Method::GET, "/title", None).await.as_str().unwrap().to_owned()
    }

    /// Waits until an element says something.
    pub async fn until_it_says(&self, selector: &str, what: &str) -> String {
        let read = async || self.text_now(selector).await.filter(|text| text.contains(what));
        match tokio::time::timeout(super::PATIENCE, until(what, read)).await {
            Ok(text) => text,
            Err(_) => panic!("{selector} does not say `{what}` but: {:?}", self.text_now(selector).await),
        }
    }

    /// What the console has said since this was last asked, without what is no error.
    pub async fn errors(&self) -> Vec<String> {
        let said = self.post("/se/log", json!({ "type": "browser" })).await;
        let is_bad = |entry: &&Value| !matches!(entry["level"].as_str(), Some("INFO" | "DEBUG"));
        said.as_array().unwrap().iter().filter(is_bad).map(|entry| entry["message"].to_string()).collect()
    }

    /// The whole page as a PNG, in Base64.
    pub async fn picture(&self) -> String {
        let shot = json!({ "format": "png", "captureBeyondViewport": true });
        self.chrome("Page.captureScreenshot", shot).await["data"].as_str().unwrap().to_owned()
    }

    pub async fn close(self) {
        soon("a window closes", self.ask(reqwest::Method::DELETE, "", None)).await;
    }
}
