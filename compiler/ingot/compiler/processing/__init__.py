"""Steps before and after a model that become part of it: what users of a model write around its session otherwise.

    input=image:imagenet,size=480x640      output=softmax      output=topk:5

They are compiled and fused with the model; its signature becomes theirs.
"""
