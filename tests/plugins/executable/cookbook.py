#!/usr/bin/env python3
"""Teaches wharf cookbooks and recipes: one request on standard input, one answer on standard output.

Installed by copying it and the two .json files beside it into a directory of plugins; see docs/plugins.md.
"""

import json
import sys

PROTOCOL = 1
COOKBOOK = "application/vnd.example.cookbook.manifest.v1+json"
RECIPE = "application/vnd.example.recipe.v1+json"


class Refused(Exception):
    """The document is not what its media type says."""


def cookbook(descriptor, text):
    """A manifest: the cover and the recipes are its children."""
    document = json.loads(text)
    if not isinstance(document, dict):
        raise Refused("it is no object")
    if document.get("mediaType") != COOKBOOK:
        raise Refused(f"it calls itself {document.get('mediaType')!r}")
    if not isinstance(document.get("recipes"), list):
        raise Refused("it has no list of recipes")
    if not isinstance(document.get("title"), str):
        raise Refused("it has no title")
    children = [{"descriptor": recipe, "role": "layer"} for recipe in document["recipes"]]
    if "cover" in document:
        children.insert(0, {"descriptor": document["cover"], "role": "other"})
    title = document["title"]
    answer = {
        "children": children,
        "description": f"cookbook {title!r} with {len(document['recipes'])} recipes",
        "facts": {"title": title},
    }
    if "about" in document:
        answer["subject"] = document["about"]
    return answer


def recipe(descriptor, text):
    """A leaf: its name is in the descriptor, so that the recipe itself need not be read."""
    name = descriptor.get("annotations", {}).get("com.example.recipe.name")
    return {"description": f"recipe {name!r}"} if name else {}


DECODERS = {COOKBOOK: cookbook, RECIPE: recipe}


def main():
    request = json.load(sys.stdin)
    descriptor = request["descriptor"]
    media_type = descriptor["mediaType"]
    if media_type in DECODERS:
        try:
            answer = DECODERS[media_type](descriptor, request.get("content", {}).get("text"))
        except Refused as error:
            answer = {"error": {"message": str(error)}}
    else:
        answer = {"error": {"kind": "unsupported", "message": f"unknown media type {media_type!r}"}}
    json.dump({"protocol": PROTOCOL, **answer}, sys.stdout)


if __name__ == "__main__":
    main()
