"""Requests that the page never makes."""

import json

import pytest

httpx = pytest.importorskip("httpx")
pytest.importorskip("gradio")


def answer(server, number, data, session="invented"):
    """What the queue says at the end to an event that the page did not send."""
    body = {"data": data, "fn_index": number, "session_hash": session, "trigger_id": None, "event_data": None}
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        joined = client.post("/gradio_api/queue/join", json=body)
        if joined.status_code != 200:
            return joined.text
        with client.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line.startswith("data: ") else {}
                if message.get("msg") in ("process_completed", "unexpected_error"):
                    return json.dumps(message)
    raise AssertionError("no answer")


def test_no_file_of_the_server_can_be_had(server, tmp_path):
    secret = tmp_path / "secret.mp4"
    secret.write_text("secret")
    file = {"path": str(secret), "orig_name": "secret.mp4", "meta": {"_type": "gradio.FileData"}}
    config = httpx.get(server.url + "/config", trust_env=False).json()
    types = {component["id"]: component["type"] for component in config["components"]}
    events = {d["id"]: [types[i] for i in d["inputs"]] for d in config["dependencies"]}
    events = {number: inputs for number, inputs in events.items() if {"video", "file"} & set(inputs)}
    assert len(events) == 4
    for number, inputs in events.items():
        data = [file if kind in ("video", "file") else None for kind in inputs]
        said = json.loads(answer(server, number, data))
        assert not said["success"] and said["output"].get("error") is None
    assert not [path for path in server.files() if path.name == "secret.mp4"]
    for path in (secret, "/etc/hostname", server.folder / "x"):
        assert httpx.get(f"{server.url}/gradio_api/file={path}", trust_env=False).status_code in (403, 404)


@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/monitoring"])
def test_nothing_else_is_offered(server, path):
    found = httpx.get(server.url + path, trust_env=False)
    assert found.status_code in (403, 404) or "<title>avsmamba" in found.text


def test_no_event_has_a_public_name(server):
    info = httpx.get(server.url + "/gradio_api/info", trust_env=False).json()
    assert not info["named_endpoints"] and not info["unnamed_endpoints"]
