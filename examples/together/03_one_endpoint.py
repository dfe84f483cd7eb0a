"""How do lare and lemae ask one language model, and keep its replies in one file?

Each has a client of its own, of the same make: give both the address, and a cache on the same file.
A row of it belongs to everything that shaped a reply, so that none is taken for another, and a
second run asks nothing. With --smoke a service on the loopback gives the replies that models once
gave to these very prompts.
Needs: pip install "lare-rl[openai]" "lemae[openai]"
"""

import argparse
import tempfile
from importlib import resources
from pathlib import Path

import lare
import lemae
from lare import catalogue
from lare import language_models as for_lare
from lemae import envs
from lemae import language_models as for_lemae
from lemae.probes import probes


def ask(models, model, base_url, cache):
    """Return one package's client and its account."""
    replies = models.ReplyCache(cache)
    return models.OpenAIChat(model, base_url, timeout_s=600, cache=replies), models.UsageRecord()


def write(credit_task, explore_task, states, model, base_url, out):
    """Have both written; tell how many replies were paid for, and how many were there."""
    llm, usage = ask(for_lare, model, base_url, out / "replies.sqlite")
    steps, task = catalogue.steps(credit_task), catalogue.task(credit_task)
    factors = lare.generate(task, llm, steps, out=out / "lare", usage=usage)
    llm, spent = ask(for_lemae, model, base_url, out / "replies.sqlite")
    env = envs.make(explore_task, num_envs=16)
    tried = probes(env, states)  # what functions are checked on
    key_states = lemae.generate(env.task_spec, llm, tried, out=out / "lemae", usage=spent)
    print(f"lare, {credit_task}: {', '.join(factors.names or ['unnamed factors'])}")
    print(f"lemae, {explore_task}: {', '.join(key_states.names)}")
    asked = usage.requests + spent.requests
    print(f"{asked} replies from the model, {usage.cached + spent.cached} from the file")
    return asked


def main():
    from parts.service import serve  # the folder beside this file

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--credit-task", default="cooperative-navigation-6", help="One of lare.")
    add("--explore-task", default="pass", help="A grid task of lemae.")
    add("--model", default="qwen2.5-coder", help="Name of the model at the service.")
    add("--base-url", default="http://localhost:11434/v1", help="Any OpenAI-compatible one.")
    add("--out", help="Folder for what is written, and for replies.sqlite.")
    add("--smoke", action="store_true", help="Seconds, without a model.")
    args = parser.parse_args()
    out = Path(args.out or tempfile.mkdtemp())
    tasks = args.credit_task, args.explore_task, 64 if args.smoke else 2048
    if not args.smoke:
        write(*tasks, args.model, args.base_url, out)
        return
    recorded = [
        resources.files("lare") / "functions" / args.credit_task / "transcript.jsonl",
        resources.files("lemae") / "key_state_sets" / args.explore_task / "transcript.jsonl",
    ]
    with serve(recorded) as (base_url, requests):
        write(*tasks, args.model, base_url, out)
        print(f"{len(requests)} requests; once more:")
        if write(*tasks, args.model, base_url, out):
            raise SystemExit("the second run asked again")


if __name__ == "__main__":
    main()
