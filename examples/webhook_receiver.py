"""A receiver of Gapless's webhooks: verifies the signature, and does nothing twice.

Serve it with `WEBHOOK_SECRET=whsec_… uvicorn webhook_receiver:app --port 9000`, and let a server tell it:

    GAPLESS_NOTIFY="secret=whsec_… url=http://127.0.0.1:9000/ http=true private=true" gapless serve my_agents.py
"""

import os
from collections import OrderedDict

from fastapi import FastAPI, HTTPException, Request
from standardwebhooks import Webhook, WebhookVerificationError

app = FastAPI()
verifier = Webhook(os.environ["WEBHOOK_SECRET"])
seen: OrderedDict[str, None] = OrderedDict()  # in earnest: a column in your database, unique


@app.post("/", status_code=204)
async def hear(request: Request) -> None:
    try:
        message = verifier.verify(await request.body(), dict(request.headers))
    except WebhookVerificationError:
        raise HTTPException(401, "the signature is none of ours, or too old") from None
    notice_id = request.headers["webhook-id"]
    if notice_id in seen:  # told again: the answer to the first time was lost
        return
    data = message["data"]
    print(f"{message['type']}: run {data['run_id']} of {data['user_id']}", flush=True)
    seen[notice_id] = None
    if len(seen) > 10_000:
        seen.popitem(last=False)
