"""How do I teach a LLaMA-type model to follow instructions with LoRA on 4-bit weights?

The paper's setting: nf4 with double quantisation, LoRA on all linears (r=64, alpha 16, dropout
0.1), learning rate 2e-4, constant, batch 4 accumulated 4 times, 10 000 steps, bf16. Without
bitsandbytes or a GPU the frozen weights are bf16 instead. Data: a JSON file in Alpaca's format, a
list of {"instruction": ..., "input": ..., "output": ...}. The loss is on the output alone.
Needs: pip install "lowmem-bp[hf]" pillow, and bitsandbytes for 4 bits
"""

import importlib.util

import torch
import transformers as hf
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training


def load_model(name):
    """Return a frozen model, in 4 bits where that can be had."""
    if not torch.cuda.is_available() or importlib.util.find_spec("bitsandbytes") is None:
        return hf.AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16)
    nf4 = hf.BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    model = hf.AutoModelForCausalLM.from_pretrained(
        name, dtype=torch.bfloat16, quantization_config=nf4
    )
    # Checkpointing would keep less still, for a third more time; here it is not needed.
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def main():
    from parts import instructions, tiny, training  # the folder beside this file

    parser = training.options(__doc__, "huggyllama/llama-7b", bf16=True)
    parser.add_argument("--steps", type=int, default=10_000, help="Number of optimizer steps.")
    parser.add_argument("--length", type=int, default=512, help="Longest row in tokens.")
    with training.arguments(parser, tiny.llama) as args:
        tokenizer = hf.AutoTokenizer.from_pretrained(args.model, padding_side="right")
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        rows = instructions.load(args.data, tokenizer, args.length)
        lora = LoraConfig(
            task_type="CAUSAL_LM",
            target_modules="all-linear",
            r=64,
            lora_alpha=16,
            lora_dropout=0.1,
        )
        model = get_peft_model(load_model(args.model), lora)
        settings = {
            "max_steps": args.steps,
            "per_device_train_batch_size": 4,
            "gradient_accumulation_steps": 4,
            "learning_rate": 2e-4,
            "lr_scheduler_type": "constant",
            "logging_steps": 10,
        }
        training.train(model, args, settings, rows, hf.DataCollatorForSeq2Seq(tokenizer))
        tokenizer.save_pretrained(args.out)


if __name__ == "__main__":
    main()
