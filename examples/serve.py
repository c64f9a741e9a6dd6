#!/usr/bin/env python
"""An exported file behind HTTP: pip install .[serve]; python examples/serve.py FILE.pt

    curl localhost:8000/predict -H 'content-type: application/json' -d '{"inputs": "a fine film"}'

/predict takes and answers what text-embeddings-inference's does: "inputs" are "text", ["text"], or
of a file for pairs ["text", "pair"], and the answer is [{"label", "score"}, ...], the likeliest
first; or a batch, [["text"], ...], and the answer is a list of those. A regression's label is
"score". SIGTERM: what was asked for is answered first.
"""

import argparse
from typing import Union

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, conlist

from albert_aie import Classifier
from albert_aie.base.errors import UserError
from albert_aie.run.dynamic_batching import Busy

Sequence = conlist(str, min_length=1, max_length=2)  # a text, or the two of a pair


class Query(BaseModel):
    inputs: Union[str, Sequence, conlist(Sequence, min_length=1)]


def load(file):
    classify = Classifier(file, streams=1)  # one stream: the lowest latency
    classify.warm_up()
    return classify


def make_app(classify):
    app = FastAPI()

    @app.exception_handler(RequestValidationError)
    async def refuse(request, error):
        # without what was sent, as FastAPI has it: NaN and half a surrogate pair are no JSON
        kept = [{key: one[key] for key in ("type", "loc", "msg")} for one in error.errors()]
        return JSONResponse({"detail": kept}, 422)

    @app.get("/health")
    async def health():
        return {"model": classify.saved.path.name}

    @app.post("/predict")
    async def predict(query: Query):
        inputs = [query.inputs] if isinstance(query.inputs, str) else query.inputs
        is_batch = isinstance(inputs[0], list)
        sequences = inputs if is_batch else [inputs]
        try:
            found = await classify.answer([tuple(s) if len(s) == 2 else s[0] for s in sequences])
        except UserError as error:
            code = 429 if isinstance(error, Busy) else 422
            raise HTTPException(code, str(error)) from None
        rows = [ranked(answer) for answer in found]
        return rows if is_batch else rows[0]

    return app


def ranked(answer):
    scores = answer.probabilities or {"score": answer.score}
    if None in scores.values():
        raise HTTPException(500, "the logits of a text are not finite")
    pairs = sorted(scores.items(), key=lambda pair: -pair[1])
    return [{"label": label, "score": score} for label, score in pairs]


if __name__ == "__main__":
    parser = argparse.ArgumentParser("serve.py")
    parser.add_argument("file", metavar="FILE.pt", help="what export_albert_aie.py wrote")
    parser.add_argument("port", nargs="?", type=int, default=8000)
    args = parser.parse_args()
    if not 0 <= args.port < 1 << 16:
        parser.error(f"port {args.port}: must be 0 to 65535")
    try:
        classify = load(args.file)
    except UserError as error:
        parser.error(str(error))
    with classify:
        uvicorn.run(make_app(classify), port=args.port, log_level="warning")
