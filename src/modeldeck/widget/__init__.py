"""The notebook widget: state goes out through traits, requests come in as messages."""
