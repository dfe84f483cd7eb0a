"""How do I let a language model behind any OpenAI-compatible address write the key states?

Start a local server first (vLLM, Ollama, llama.cpp, ...) and name it with --base-url. With --smoke
the recorded dialogue of the shipped key states is played back instead, through the same code.
Needs: pip install "lemae[openai]"
"""

import argparse
import tempfile
from importlib import resources

from lemae import envs, generate
from lemae.language_models import OpenAIChat, ReplayLLM, ReplyCache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="secret-room", help="a grid task")
    parser.add_argument("--model", default="qwen2.5-coder", help="name of the model at the server")
    parser.add_argument("--base-url", default="http://localhost:11434/v1")
    parser.add_argument("--out", default=None, help="folder for key states and transcript")
    parser.add_argument("--smoke", action="store_true", help="seconds: does it run here?")
    options = parser.parse_args()

    out = options.out or tempfile.mkdtemp()
    if options.smoke:
        recorded = resources.files("lemae") / "key_state_sets" / options.task / "transcript.jsonl"
        llm = ReplayLLM(recorded)
    else:
        cache = ReplyCache(
            f"{out}/replies.sqlite"
        )  # a dialogue that fails goes on where it stopped
        llm = OpenAIChat(options.model, options.base_url, timeout_s=600, cache=cache)
    env = envs.make(options.task, num_envs=16)  # or one of your own, with a TaskSpec of your own
    key_states = generate(env.task_spec, llm, env, out=out)
    print(key_states.source)
    print(f"saved: lemae train --task {options.task} --key-states {out}")


if __name__ == "__main__":
    main()
