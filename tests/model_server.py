"""A real model server for tests: tiny transformers models behind HTTP, by the interface that vLLM documents, on loopback.

It renders, tokenises and generates by itself: adapters stay unmerged, requests that wait are generated together. `edit`, `garbage`,
`without` and `dies_after` break it.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from transformers import AutoModelForCausalLM, AutoTokenizer

Body = dict[str, Any]
_TOGETHER = 32


class ModelServer:
    """Serves the model in `folder` as `name`. What it has no share in (`without`): tokenize, prompt_logprobs, echo, adapters."""

    def __init__(self, folder: Path, name: str = "base", *, root: str = "", without: tuple[str, ...] = (), key: str = "") -> None:
        self.name, self.root, self.without, self.key = name, root or str(folder), set(without), key
        self.answered: Counter[str] = Counter()
        self.orders: list[str] = []
        self.adapters: dict[str, str] = {}
        self.dies_after = 0
        self.garbage: Any = None
        """Sent in place of a completion, probes excepted."""
        self.edit: Callable[[Body, Body, bool], int | None] | None = None
        """Changes an answer (request, answer, whether it is a call and no probe) before it is sent, or returns a status to send instead."""
        self.tells_root = True
        self.waits = 0.0
        self.most_waiting = 0
        self.port = 0
        self._waiting: list[tuple[Body, list[int], asyncio.Future[Any]]] = []
        self._lock = threading.Lock()
        self.become(folder)

    def become(self, folder: Path, *, template: str = "") -> None:
        """Serve other weights under the same names, as a restart would."""
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.tokenizer.chat_template = template or self.tokenizer.chat_template
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._peft: Any = None
        for name, path in self.adapters.items():
            self._add(name, path)

    def _add(self, name: str, path: str) -> None:
        from peft import PeftModel

        if self._peft is None:
            self._peft = PeftModel.from_pretrained(self.model, path, adapter_name=name).eval()
        else:
            self._peft.load_adapter(path, adapter_name=name)

    async def models(self, _: Request) -> Response:
        cards: list[Body] = [{"id": self.name, "object": "model", "root": self.root, "parent": None, "max_model_len": 2048}]
        roots = self.adapters if self.tells_root else dict.fromkeys(self.adapters)
        cards += [{"id": name, "object": "model", "root": root, "parent": self.name} for name, root in roots.items()]
        return JSONResponse({"object": "list", "data": cards})

    async def tokenize(self, request: Request) -> Response:
        if "tokenize" in self.without:
            return _error(404, "Not Found")
        body = json.loads(await request.body())
        ids = self._ids(body)
        return JSONResponse({"count": len(ids), "max_model_len": 2048, "tokens": ids})

    def _ids(self, body: Body) -> list[int]:
        if isinstance(body.get("prompt"), list):
            return list(body["prompt"])
        text = self.tokenizer.apply_chat_template(
            body["messages"], tokenize=False, add_generation_prompt=True, **body.get("chat_template_kwargs", {})
        )
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    async def load(self, request: Request) -> Response:
        if "adapters" in self.without:
            return _error(404, "Not Found")
        body = json.loads(await request.body())
        name, path = body["lora_name"], body["lora_path"]
        self.orders.append(f"load {name}")
        if name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        try:
            with self._lock:
                self._add(name, path)
        except Exception as error:
            return _error(404, f"No adapter found for {path}: {type(error).__name__}")
        self.adapters[name] = path
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload(self, request: Request) -> Response:
        if "adapters" in self.without:
            return _error(404, "Not Found")
        name = json.loads(await request.body())["lora_name"]
        if name not in self.adapters:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        self.orders.append(f"unload {name}")
        del self.adapters[name]
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")

    async def complete(self, request: Request) -> Response:
        raw = await request.body()
        body: Body = json.loads(raw)
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return _error(401, f"wrong key {request.headers.get('authorization')}")
        if body["model"] != self.name and body["model"] not in self.adapters:
            return _error(404, f"The model `{body['model']}` does not exist.")
        if ("echo" in body and "echo" in self.without) or ("prompt_logprobs" in body and "prompt_logprobs" in self.without):
            return _error(400, "prompt log-probabilities are not supported")
        # Probes and calls differ in their length, and only calls have a key.
        is_call = "idempotency-key" in request.headers
        if is_call and self.dies_after and sum(self.answered.values()) >= self.dies_after:
            self._server.force_exit = self._server.should_exit = True
            await asyncio.sleep(30)
        if is_call and self.garbage is not None:
            return Response(self.garbage(body) if callable(self.garbage) else self.garbage, media_type="application/json")
        if is_call and self.waits:
            await asyncio.sleep(self.waits)
        ids = self._ids(body)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, ids, future))
        self.most_waiting = max(self.most_waiting, len(self._waiting))
        asyncio.get_running_loop().call_later(0.002, self._wake.set)
        tokens, log_probs = await future
        # An answer that dies with the server was never given.
        if is_call and not self._server.should_exit:
            self.answered[json.dumps(body, sort_keys=True)] += 1
        answer = self._answer(body, ids, tokens, log_probs, chat="messages" in body)
        if self.edit is not None and (status := self.edit(body, answer, is_call)):
            return _error(status, "broken")
        return JSONResponse(answer)

    def _answer(self, body: Body, ids: list[int], tokens: list[int], log_probs: list[float], *, chat: bool) -> Body:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        choice: Body = {"index": 0, "finish_reason": "length" if len(tokens) >= body["max_tokens"] else "stop"}
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        if "prompt_logprobs" in body:
            choice["prompt_logprobs"] = [
                None,
                *({str(one): {"logprob": each, "rank": 1}} for one, each in zip(ids[1:], log_probs, strict=True)),
            ]
        if body.get("echo"):
            choice["logprobs"] = {"tokens": [str(one) for one in ids], "token_logprobs": [None, *log_probs, -0.5]}
        usage = {"prompt_tokens": len(ids), "completion_tokens": len(tokens), "total_tokens": len(ids) + len(tokens)}
        return {"id": "x", "object": "completion", "created": 0, "model": body["model"], "choices": [choice], "usage": usage}

    async def _work(self) -> None:
        """Answer what waits, together: requests to one model with as many tokens to write."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                first = self._waiting[0][0]
                kind = (first["model"], first["max_tokens"], "messages" in first)
                batch = [one for one in self._waiting if (one[0]["model"], one[0]["max_tokens"], "messages" in one[0]) == kind][:_TOGETHER]
                self._waiting = [one for one in self._waiting if one not in batch]
                found = await loop.run_in_executor(None, self._run, kind[0], [ids for _, ids, _ in batch], kind[1], kind[2])
                for (_, _, future), each in zip(batch, found, strict=True):
                    if not future.done():
                        future.set_result(each)

    @torch.inference_mode()
    def _run(self, name: str, rows: list[list[int]], most: int, chat: bool) -> list[tuple[list[int], list[float]]]:
        with self._lock:
            width = max(map(len, rows))
            tokens = torch.tensor([[0] * (width - len(row)) + row for row in rows])
            visible = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
            if self._peft is not None and name in self.adapters:
                self._peft.set_adapter(name)
                return self._generate(self._peft, rows, tokens, visible, most, chat)
            if self._peft is not None:
                with self._peft.disable_adapter():
                    return self._generate(self._peft, rows, tokens, visible, most, chat)
            return self._generate(self.model, rows, tokens, visible, most, chat)

    def _generate(
        self, model: Any, rows: list[list[int]], tokens: Any, visible: Any, most: int, chat: bool
    ) -> list[tuple[list[int], list[float]]]:
        if not chat:
            positions = (visible.cumsum(1) - 1).clamp(min=0)
            log = torch.log_softmax(model(input_ids=tokens, attention_mask=visible, position_ids=positions).logits.float(), -1)
            picked = log[:, :-1].gather(-1, tokens[:, 1:].unsqueeze(-1)).squeeze(-1)
            return [([3], [float(one) for one in picked[at, tokens.shape[1] - len(row) :]]) for at, row in enumerate(rows)]
        out = model.generate(input_ids=tokens, attention_mask=visible, max_new_tokens=most, do_sample=False, pad_token_id=0)
        made = out[:, tokens.shape[1] :].tolist()
        end = self.tokenizer.eos_token_id
        return [(row[: row.index(end) + 1] if end in row else row, []) for row in made]

    def _app(self) -> Starlette:
        posts = {
            "/v1/chat/completions": self.complete,
            "/v1/completions": self.complete,
            "/v1/load_lora_adapter": self.load,
            "/v1/unload_lora_adapter": self.unload,
            "/tokenize": self.tokenize,
        }
        return Starlette(routes=[Route("/v1/models", self.models), *(Route(path, do, methods=["POST"]) for path, do in posts.items())])

    @contextmanager
    def running(self) -> Iterator[str]:
        """Serve until the block ends; a second time, on the same port. Yields the address."""
        config = uvicorn.Config(self._app(), host="127.0.0.1", port=self.port, log_level="critical", timeout_graceful_shutdown=0)
        self._server = uvicorn.Server(config)

        async def serve() -> None:
            self._wake, self._waiting = asyncio.Event(), []
            worker = asyncio.create_task(self._work())
            await self._server.serve()
            worker.cancel()

        thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        thread.start()
        while not self._server.started:
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        try:
            yield f"http://127.0.0.1:{self.port}/v1"
        finally:
            self._server.should_exit = True
            thread.join(10)


def _error(status: int, words: str) -> Response:
    return JSONResponse({"error": {"message": words, "type": "Error", "code": status}}, status_code=status)
