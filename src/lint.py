from nlnet.cli.lint import main

if __name__ == "__main__":
    main()
