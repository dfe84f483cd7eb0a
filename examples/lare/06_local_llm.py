"""Let a language model behind any OpenAI-compatible address write the function.

Start a local server first (vLLM, Ollama, llama.cpp, ...) and name it with --base-url. With --smoke
the recorded dialogue of a shipped function is played back instead, through the same code.
"""

import argparse
import tempfile
from importlib import resources

import gymnasium

from lare import TaskSpec, generate
from lare.language_models import OpenAIChat, ReplayLLM, ReplyCache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="Pendulum-v1")
    parser.add_argument("--model", default="qwen2.5-coder", help="name of the model at the server")
    parser.add_argument("--base-url", default="http://localhost:11434/v1")
    parser.add_argument("--out", default=None, help="folder for function and transcript")
    parser.add_argument("--smoke", action="store_true", help="seconds: does it run here?")
    options = parser.parse_args()

    out = options.out or tempfile.mkdtemp()
    if options.smoke:
        recorded = resources.files("lare") / "functions" / options.task / "transcript.jsonl"
        llm = ReplayLLM(recorded)
    else:
        cache = ReplyCache(f"{out}/replies.sqlite")  # a run that fails goes on where it stopped
        llm = OpenAIChat(options.model, options.base_url, timeout_s=600, cache=cache)
    task = TaskSpec.shipped(options.task)  # or one of your own
    function = generate(task, llm, gymnasium.make(options.task), out=out)
    print(function.source)
    print(f"saved in {out}")


if __name__ == "__main__":
    main()
